"""``model.layer_lr_decay``: rates by layer, with every optimizer of configs/optimizer/ that this machine has."""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from lightning_adafactor import Adafactor, TransformersAdafactor
from recipes.messages import RecipeError
from recipes.training import optimizer as optimization
from recipes.training.layer_rates import scale_rates
from recipes.training.optimizer import parameter_groups

NEED_A_GPU = ("adafactor8bit", "flashoptim", "gefen")
FILES = [
    file
    for file in sorted((Path(__file__).parents[3] / "configs/optimizer").glob("*.yaml"))
    if file.stem not in NEED_A_GPU
]
DECAY = 0.5


@pytest.fixture(scope="module")
def model() -> nn.Module:
    config = BertConfig(vocab_size=70, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=80)
    return BertForSequenceClassification(config)


def configure(model: nn.Module, optimizer: Any, decay: float = DECAY) -> Any:
    return optimization.configure(model, None, optimizer, None, 0.0, None, decay)["optimizer"]  # type: ignore[arg-type]


def rates_by_name(optimizer: Any) -> dict[str, float]:
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}


def test_each_layer_has_the_rate_of_the_one_above_times_the_decay(model: nn.Module) -> None:
    rates = rates_by_name(configure(model, partial(torch.optim.AdamW, lr=0.8)))

    expected = {"embeddings": 0.1, "layer_0": 0.2, "layer_1": 0.4, "head": 0.8}
    both = {name + suffix: rate for name, rate in expected.items() for suffix in ("", "_undecayed")}
    assert rates == pytest.approx(both)
    assert list(rates) == list(both)


def test_biases_and_norms_are_not_decayed_in_any_layer(model: nn.Module) -> None:
    decays = {
        group["name"]: group["weight_decay"]
        for group in configure(model, partial(torch.optim.AdamW, lr=0.8, weight_decay=0.3)).param_groups
    }

    assert {name for name, decay in decays.items() if decay} == {"embeddings", "layer_0", "layer_1", "head"}


@settings(max_examples=20, deadline=None)
@given(decay=st.floats(0.1, 0.99), layers=st.integers(1, 4), frozen=st.integers(0, 4))
def test_every_trainable_parameter_is_in_one_group(decay: float, layers: int, frozen: int) -> None:
    small = nn.Sequential(nn.Embedding(3, 2), nn.ModuleList([nn.Linear(2, 2) for _ in range(layers)]), nn.Linear(2, 1))
    for parameter in list(small.parameters())[:frozen]:
        parameter.requires_grad_(False)

    groups = parameter_groups(small, None, decay)

    found = [id(each) for group in groups for each in group["params"]]
    assert sorted(found) == sorted(id(each) for each in small.parameters() if each.requires_grad)
    factors = [group["lr_factor"] for group in groups]
    assert factors == sorted(factors)
    assert factors[-1] == 1.0


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_rates_of_an_optimizer_file_follow_the_layers(file: Path, model: nn.Module) -> None:
    given = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["init_args"]["optimizer"]
    module, _, name = given["class_path"].rpartition(".")
    if module != "torch.optim":
        pytest.importorskip(module, reason="needs the extras 8bit and optimizers", exc_type=ImportError)
    make = partial(getattr(import_module(module), name), **given.get("init_args", {}))
    plain = make(parameter_groups(model, make))
    layered = make(parameter_groups(model, make, DECAY))
    if any(group["lr"] is None or group.get("relative_step") for group in plain.param_groups):
        with pytest.raises(RecipeError, match=r"model\.layer_lr_decay is 0\.5, but .* computes its own learning rate"):
            scale_rates(layered, DECAY)
        return

    scale_rates(layered, DECAY)

    own = {id(each): float(group["lr"]) for group in plain.param_groups for each in group["params"]}
    found = {id(each): float(group["lr"]) for group in layered.param_groups for each in group["params"]}
    names = {id(each): name for name, each in model.named_parameters()}
    assert found.keys() == own.keys()
    for key, rate in found.items():
        layer = next((int(part) for part in names[key].split(".") if part.isdecimal()), None)
        below = 3 if ".embeddings." in names[key] else 0 if layer is None else 2 - layer
        assert rate == pytest.approx(own[key] * DECAY**below), names[key]
    assert len({group["name"] for group in layered.param_groups}) == len(layered.param_groups)
    if "name" in plain.param_groups[0]:
        assert {group["name"].split(".")[0] for group in layered.param_groups} == {
            group["name"] for group in plain.param_groups
        }


@pytest.mark.parametrize("optimizer", [TransformersAdafactor, partial(Adafactor, relative_step=True)])
def test_an_optimizer_with_rates_of_its_own_is_refused(optimizer: Any, model: nn.Module) -> None:
    with pytest.raises(RecipeError, match=r"model\.layer_lr_decay is 0\.5, but .*: set model\.layer_lr_decay to 1"):
        configure(model, optimizer)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(RecipeError, match="Linear has no list of layers"):
        configure(nn.Linear(2, 2), partial(torch.optim.SGD, lr=0.1))


def test_an_optimizer_that_makes_its_own_groups_is_refused(model: nn.Module) -> None:
    def regrouping(groups: Any) -> torch.optim.SGD:
        return torch.optim.SGD([each for group in groups for each in group["params"]], lr=0.1)

    with pytest.raises(RecipeError, match="SGD does not keep the options of its parameter groups"):
        configure(model, regrouping)
