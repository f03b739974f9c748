"""Saved optimizer states name their parameters, in whatever order the optimizer has them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn

from lightning_adafactor import Adafactor
from recipes.messages import RecipeError
from recipes.training.named_state import NamedOptimizerState


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.second = nn.Linear(3, 2)

    def optimizer(self) -> Adafactor:
        weights = [self.first.weight, self.second.weight]
        return Adafactor([{"params": weights}, {"params": [self.first.bias, self.second.bias], "weight_decay": 0.0}])


def saved(module: Model, optimizer: Adafactor) -> dict[str, Any]:
    """A checkpoint after a step, with the state as torch saves it."""
    module.second(module.first(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    return {"optimizer_states": [optimizer.state_dict()]}


def test_each_number_becomes_the_name_of_its_parameter() -> None:
    module = Model()
    optimizer = module.optimizer()
    checkpoint = saved(module, optimizer)

    trainer: Any = SimpleNamespace(strategy=None, optimizers=[optimizer])
    NamedOptimizerState().on_save_checkpoint(trainer, module, checkpoint)

    state = checkpoint["optimizer_states"][0]
    assert [group["params"] for group in state["param_groups"]] == [
        ["first.weight", "second.weight"],
        ["first.bias", "second.bias"],
    ]
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(state["state"][name], optimizer.state[parameter])


def test_torch_loads_a_state_with_names() -> None:
    module = Model()
    optimizer = module.optimizer()
    checkpoint = saved(module, optimizer)
    trainer: Any = SimpleNamespace(strategy=None, optimizers=[optimizer])
    NamedOptimizerState().on_save_checkpoint(trainer, module, checkpoint)

    other = Model()
    loaded = other.optimizer()
    loaded.load_state_dict(checkpoint["optimizer_states"][0])

    for one, two in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(loaded.state[two], optimizer.state[one])


def test_a_state_with_numbers_is_refused_where_parameters_are_sharded() -> None:
    module = Model()
    checkpoint = saved(module, module.optimizer())
    trainer: Any = SimpleNamespace(strategy=ModelParallelStrategy(), ckpt_path="old.ckpt")

    with pytest.raises(RecipeError, match=r"--ckpt_path old.ckpt: its optimizer state does not name its parameters"):
        NamedOptimizerState().on_load_checkpoint(trainer, module, checkpoint)
