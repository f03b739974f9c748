"""The optimizer's parameter groups, and its errors."""

import pytest
import torch
from torch import nn

from lightning_adafactor import Adafactor
from recipes.messages import RecipeError
from recipes.training import optimizer as optimization


def configure(model, optimizer):
    return optimization.configure(model, None, optimizer, schedule=None, warmup=0.0, schedule_args=None)


def test_an_invalid_argument_of_the_optimizer_is_a_recipe_error():
    with pytest.raises(RecipeError, match=r"model\.optimizer .*Learning rate should be >= 0 but is: -1"):
        configure(nn.Linear(2, 2), lambda params: Adafactor(params, lr=-1.0))


def test_a_model_without_trainable_parameters_is_a_recipe_error():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(RecipeError, match="no trainable parameters"):
        configure(model, torch.optim.SGD)


def test_biases_and_norms_have_no_weight_decay():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    decayed, undecayed = optimization.parameter_groups(model)
    assert [parameter.shape for parameter in decayed["params"]] == [(3, 2)]
    assert undecayed["weight_decay"] == 0.0
    assert len(undecayed["params"]) == 3
