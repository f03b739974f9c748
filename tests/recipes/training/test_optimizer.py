"""The optimizer's parameter groups, and its errors."""

from functools import partial

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


def test_an_assertion_without_words_is_a_recipe_error():
    def refusing(_):
        assert 0 > 1  # as some libraries check their arguments

    with pytest.raises(RecipeError, match=r"cannot be created: .+"):
        configure(nn.Linear(2, 2), refusing)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD,
        partial(torch.optim.SGD, lr=0.1),
        partial(lambda kind, params, **settings: kind(params, **settings), torch.optim.SGD, lr=0.1),
        lambda params: torch.optim.SGD(params, lr=0.1),
    ],
)
def test_the_class_of_a_callable_is_known(optimizer):
    assert optimization.class_of(optimizer) is torch.optim.SGD


def test_the_class_of_a_callable_that_fails_is_unknown():
    assert optimization.class_of(lambda params: torch.optim.SGD(params, lr=-1.0)) is torch.optim.Optimizer


class Splitting(torch.optim.SGD):
    """Wants a group for each parameter."""

    @staticmethod
    def split_groups(groups, model):
        return [{**group, "params": [each]} for group in groups for each in group["params"]]


def test_an_optimizer_can_split_the_groups_further():
    built = configure(nn.Linear(2, 2), partial(Splitting, lr=0.1))["optimizer"]
    assert [len(group["params"]) for group in built.param_groups] == [1, 1]


@pytest.mark.parametrize("schedule", [None, "constant", "constant_with_warmup"])
def test_arguments_of_a_schedule_that_takes_none_are_refused(schedule):
    with pytest.raises(RecipeError, match=r"schedule_args is \{'num_cycles': 2\}, but model\.schedule .* takes none"):
        optimization.configure(
            nn.Linear(2, 2), None, torch.optim.SGD, schedule=schedule, warmup=0.0, schedule_args={"num_cycles": 2}
        )
