"""Other libraries' optimizers of configs/optimizer/ that a CPU supports: their steps and state, predicted and resumed.

The class and the arguments are those of the YAML, the parameter groups those of a recipe.
"""

import copy
import io
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from torch import nn
from torch.optim import Optimizer

from lightning_adafactor.memory import measure_state
from lightning_adafactor.prediction import predict_state
from recipes.training.optimizer import parameter_groups
from tests.recipes.optimizers.files import OF_LIBRARIES

FILES = Path(__file__).parents[3] / "configs" / "optimizer"
ADAPTED = ["adam_mini", "apollo", "came", "galore", "muon"]
MODELS = {
    "bert": transformers.BertConfig(
        vocab_size=70, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=80
    ),
    "llama": transformers.LlamaConfig(
        vocab_size=70,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=80,
    ),
}
AUTO = {"bert": transformers.AutoModelForSequenceClassification, "llama": transformers.AutoModelForCausalLM}
MAKE = Callable[[list[dict[str, Any]]], Optimizer]


def making(name: str) -> MAKE:
    optimizer = yaml.safe_load((FILES / f"{name}.yaml").read_text(encoding="utf-8"))["model"]["init_args"]["optimizer"]
    module, _, cls = optimizer["class_path"].rpartition(".")
    if module != "torch.optim":
        pytest.importorskip(module, reason="needs the extras 8bit and optimizers", exc_type=ImportError)
    lower = {"rank": 8} if "rank" in optimizer["init_args"] else {}  # the models' width is 64
    return partial(getattr(import_module(module), cls), **optimizer["init_args"] | lower)


def build(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    with torch.device(device):
        return AUTO[name].from_config(MODELS[name], dtype=dtype)


def step(model: nn.Module, optimizer: Optimizer, seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        optimizer.step()


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    """Torchao's step gives the same numbers uncompiled, without minutes of compiling."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize(
    ("name", "model", "dtype"),
    [(name, "bert", torch.float32) for name in OF_LIBRARIES] + [(name, "llama", torch.bfloat16) for name in ADAPTED],
    ids=str,
)
def test_the_predicted_state_is_the_measured_one(name: str, model: str, dtype: torch.dtype) -> None:
    trained, on_meta = build(model, dtype=dtype), build(model, "meta", dtype)
    make = making(name)
    optimizer = make(parameter_groups(trained, make))

    step(trained, optimizer, range(3))

    assert predict_state(make, parameter_groups(on_meta, make)) == measure_state(optimizer.state.values())


@pytest.mark.parametrize("name", OF_LIBRARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_changes_every_parameter_and_continues_from_a_file_with_the_same_numbers(
    name: str, dtype: torch.dtype
) -> None:
    model, make = build("bert", dtype=dtype), making(name)
    before = copy.deepcopy(model)
    optimizer = make(parameter_groups(model, make))
    step(model, optimizer, range(3))
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    other = copy.deepcopy(model)
    resumed = make(parameter_groups(other, make))
    resumed.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))

    torch.manual_seed(1)
    step(model, optimizer, range(3, 5))
    torch.manual_seed(1)
    step(other, resumed, range(3, 5))

    for (of, old), new, same in zip(before.named_parameters(), model.parameters(), other.parameters(), strict=True):
        assert new.isfinite().all(), of
        assert dtype == torch.bfloat16 or not torch.equal(new, old), of  # bfloat16 loses small steps
        assert torch.equal(new, same), of
    assert measure_state(resumed.state.values()) == measure_state(optimizer.state.values())
