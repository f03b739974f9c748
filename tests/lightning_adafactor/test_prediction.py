import functools
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from lightning_adafactor import Adafactor, TransformersAdafactor
from lightning_adafactor.memory import StateSize, measure_state
from lightning_adafactor.prediction import bitsandbytes_adamw8bit_state, predict_state

MODELS = {
    "bert": (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(
            vocab_size=200, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=80
        ),
    ),
    "distilbert": (
        transformers.DistilBertForSequenceClassification,
        transformers.DistilBertConfig(vocab_size=200, dim=64, n_layers=1, n_heads=2, hidden_dim=80),
    ),
    "llama": (
        transformers.LlamaForCausalLM,
        transformers.LlamaConfig(
            vocab_size=200,
            hidden_size=64,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=80,
            tie_word_embeddings=True,
        ),
    ),
}


def library(name: str) -> Any:
    """A mark for cases that need an optional library."""
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def bitsandbytes_adamw(params: Any) -> torch.optim.Optimizer:
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(params)


def torchao_adamw(params: Any) -> torch.optim.Optimizer:
    import torchao.optim

    return torchao.optim.AdamW8bit(params)


OPTIMIZERS = [
    pytest.param(torch.optim.AdamW, id="AdamW"),
    pytest.param(functools.partial(torch.optim.AdamW, foreach=True), id="AdamW foreach"),
    pytest.param(functools.partial(torch.optim.AdamW, fused=True), id="AdamW fused"),
    pytest.param(functools.partial(torch.optim.AdamW, amsgrad=True), id="AdamW amsgrad"),
    pytest.param(torch.optim.Adam, id="Adam"),
    pytest.param(Adafactor, id="Adafactor"),
    pytest.param(functools.partial(Adafactor, beta1=0.9), id="Adafactor beta1"),
    pytest.param(TransformersAdafactor, id="TransformersAdafactor"),
    pytest.param(
        functools.partial(TransformersAdafactor, lr=1e-3, beta1=0.9, relative_step=False),
        id="TransformersAdafactor beta1",
    ),
    pytest.param(torch.optim.Adafactor, id="torch.optim.Adafactor"),
    pytest.param(transformers.Adafactor, id="transformers.Adafactor"),
    pytest.param(functools.partial(transformers.Adafactor, beta1=0.9), id="transformers.Adafactor beta1"),
    pytest.param(torch.optim.SGD, id="SGD"),
    pytest.param(functools.partial(torch.optim.SGD, momentum=0.9), id="SGD momentum"),
    pytest.param(torch.optim.Adagrad, id="Adagrad, whose state is there before the first step"),
    pytest.param(torch.optim.NAdam, id="NAdam"),
    pytest.param(bitsandbytes_adamw, marks=library("bitsandbytes"), id="bitsandbytes AdamW8bit"),
]


def build(name: str, dtype: torch.dtype, device: str) -> nn.Module:
    cls, config = MODELS[name]
    with torch.device(device):
        return cls(config).to(dtype)


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups, as the recipes make them."""
    return [
        {"params": [parameter for parameter in model.parameters() if parameter.dim() > 1]},
        {"params": [parameter for parameter in model.parameters() if parameter.dim() < 2], "weight_decay": 0.0},
    ]


def held_after_two_steps(optimizer: torch.optim.Optimizer) -> StateSize:
    for _ in range(2):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
        optimizer.step()
    return measure_state(optimizer.state.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model", ["bert", pytest.param("distilbert", marks=pytest.mark.slow), "llama"])
@pytest.mark.parametrize("make", OPTIMIZERS)
def test_prediction_from_meta_equals_the_state_of_a_real_run(
    make: Callable[..., torch.optim.Optimizer], model: str, dtype: torch.dtype
) -> None:
    real = make(groups(build(model, dtype, "cpu")))

    assert predict_state(make, groups(build(model, dtype, "meta"))) == held_after_two_steps(real)


@library("torchao")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_prediction_of_torchaos_8_bit_state_equals_that_of_a_real_run(dtype: torch.dtype) -> None:
    shapes = [(64, 64), (64, 64), (64, 64), (80, 64), (64, 100), (64,), (7,)]
    real = torchao_adamw([nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes])
    on_meta = [{"params": [nn.Parameter(torch.empty(shape, dtype=dtype, device="meta")) for shape in shapes]}]

    with torch.compiler.set_stance("force_eager"):
        held = held_after_two_steps(real)

    assert predict_state(torchao_adamw, on_meta) == held


PUBLISHED_TABLE = [
    pytest.param(torch.optim.AdamW, 131_566_188, 501.89, id="AdamW"),
    pytest.param(Adafactor, 178_608, 0.68, id="Adafactor"),
    pytest.param(TransformersAdafactor, 178_712, 0.68, id="TransformersAdafactor"),
    pytest.param(transformers.Adafactor, 178_712, 0.68, id="transformers.Adafactor"),
    pytest.param(torch.optim.Adafactor, 178_608, 0.68, id="torch.optim.Adafactor"),
    pytest.param(bitsandbytes_adamw, 132_099_588, 127.80, marks=library("bitsandbytes"), id="bitsandbytes AdamW8bit"),
    pytest.param(torchao_adamw, 131_566_188, 127.87, marks=library("torchao"), id="torchao AdamW8bit"),
]


@pytest.mark.parametrize(("make", "elements", "megabytes"), PUBLISHED_TABLE)
def test_published_table_comes_from_distilberts_shapes_alone(
    make: Callable[..., torch.optim.Optimizer], elements: int, megabytes: float
) -> None:
    with torch.device("meta"):
        model = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(vocab_size=28996))

    size = predict_state(make, [{"params": list(model.parameters())}])

    assert size.elements == elements
    assert round(size.megabytes, 2) == megabytes


def on_meta(*shapes: Iterable[int], **settings: Any) -> list[nn.Parameter]:
    return [nn.Parameter(torch.empty(tuple(shape), device="meta", **settings)) for shape in shapes]


@pytest.mark.parametrize("make", [torch.optim.AdamW, Adafactor, functools.partial(torch.optim.SGD, momentum=0.9)])
def test_tied_parameter_counts_once_and_frozen_one_not_at_all(make: Callable[..., torch.optim.Optimizer]) -> None:
    tied, other, frozen = on_meta((8, 4), (8,), (100, 100))
    frozen.requires_grad_(False)

    together = predict_state(make, [{"params": [tied, frozen, tied]}, {"params": [other, tied]}])

    assert together == predict_state(make, [{"params": [tied, other]}])


def test_prediction_without_parameters_is_zero() -> None:
    (frozen,) = on_meta((3, 3))

    assert predict_state(torch.optim.AdamW, [{"params": [frozen.requires_grad_(False)]}]) == StateSize(0, 0)


def test_options_of_each_group_are_used() -> None:
    first, second = on_meta((10,), (20,))

    size = predict_state(torch.optim.AdamW, [{"params": [first]}, {"params": [second], "amsgrad": True}])

    assert size.elements == (2 * 10 + 1) + (3 * 20 + 1)


@pytest.mark.parametrize(
    "make", [functools.partial(Adafactor, fused=True), functools.partial(Adafactor, capturable=True)]
)
def test_state_of_the_kernels_is_known_where_there_is_no_gpu(make: Callable[..., torch.optim.Optimizer]) -> None:
    groups = [{"params": on_meta((30, 20), (20,), dtype=torch.bfloat16)}]

    assert predict_state(make, groups) == predict_state(Adafactor, groups)


def test_parameters_are_neither_read_nor_written() -> None:
    parameter = nn.Parameter(torch.full((3, 3), 7.0))

    predict_state(functools.partial(torch.optim.SGD, momentum=0.9), [{"params": [parameter]}])

    assert parameter.grad is None
    assert parameter.detach().eq(7.0).all()


class Buffered(torch.optim.Optimizer):
    """Keeps one buffer that all parameters share, completes its state in the second step, and reads gradients."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.shared = torch.zeros(50)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "shared" in state:
                    state.setdefault("average", torch.zeros_like(parameter))
                state["shared"] = self.shared
                if bool((parameter.grad > 1e30).any()):  # a fake gradient has no values to look at
                    raise ValueError("a gradient is too large")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_optimizer_that_reads_gradients_is_probed_with_real_ones(count: int) -> None:
    size = predict_state(Buffered, [{"params": on_meta(*[(4, 5)] * count)}])

    assert size == StateSize(elements=count * (20 + 50), bytes=4 * (count * 20 + 50))


def test_error_of_an_optimizer_about_its_arguments_is_raised() -> None:
    with pytest.raises(ValueError, match="Invalid learning rate"):
        predict_state(functools.partial(torch.optim.RMSprop, lr=-1.0), [{"params": on_meta((3,))}])


@library("bitsandbytes")
@pytest.mark.parametrize("model", MODELS)
def test_formula_for_bitsandbytes_equals_the_librarys_state(model: str) -> None:
    real = bitsandbytes_adamw(build(model, torch.float32, "cpu").parameters())
    meta = build(model, torch.float32, "meta")

    assert bitsandbytes_adamw8bit_state(meta.parameters()) == held_after_two_steps(real)


def test_formula_for_bitsandbytes_keeps_small_tensors_in_32_bits() -> None:
    assert bitsandbytes_adamw8bit_state(on_meta((4095,))) == StateSize(2 * 4095 + 1, 8 * 4095 + 8)
    assert bitsandbytes_adamw8bit_state(on_meta((4097,))) == StateSize(
        2 * (4097 + 17 + 256) + 1, 2 * (4097 + 4 * 17) + 8 + 2048
    )


@library("bitsandbytes")
@pytest.mark.parametrize("name", ["AdamW8bit", "PagedAdamW8bit", "Lion8bit"])
def test_bitsandbytes_maps_are_shared_on_other_devices_than_the_cpu_too(name: str) -> None:
    make = getattr(pytest.importorskip("bitsandbytes.optim"), name)
    shapes = [(64, 64), (64, 64), (80, 64), (7,)]
    optimizer = make(on_meta(*shapes))
    group = optimizer.param_groups[0]

    for number, parameter in enumerate(group["params"]):
        optimizer.init_state(group, parameter, 0, number)  # the maps move from the CPU with the first of them

    assert measure_state(optimizer.state.values()) == predict_state(make, [{"params": on_meta(*shapes)}])


@library("bitsandbytes")
@pytest.mark.parametrize(("name", "maps"), [("AdamW8bit", 2), ("Lion8bit", 1)])
def test_bitsandbytes_copies_its_maps_for_each_parameter_of_a_checkpoint_loaded_onto_another_device(
    name: str, maps: int
) -> None:
    make = getattr(pytest.importorskip("bitsandbytes.optim"), name)
    shapes = [(64, 64), (64, 64), (80, 64), (7,)]
    saved, loaded = make([nn.Parameter(torch.zeros(shape)) for shape in shapes]), make(on_meta(*shapes))
    held = held_after_two_steps(saved)

    loaded.load_state_dict(saved.state_dict())

    assert measure_state(loaded.state.values()).bytes - held.bytes == 2 * maps * 256 * 4
