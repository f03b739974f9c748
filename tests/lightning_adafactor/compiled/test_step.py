"""The compiled step: every kind of work, equal bits from any number of threads, any shape, stride, dtype and option."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.extra_memory import peak_on_cpu
from lightning_adafactor import Adafactor, TransformersAdafactor, implementation, plain
from lightning_adafactor.compiled import build, library, table
from lightning_adafactor.rounding import random_bits, round_stochastically
from lightning_adafactor.tiles import Grid
from tests.lightning_adafactor.compiled.available import needs_compiled
from tests.lightning_adafactor.test_plain import TORCH, TRANSFORMERS, strided

pytestmark = needs_compiled

SHAPES = {
    "whole matrix": (60, 50),
    "whole vector": (700,),
    "vector in pieces": (100_001,),
    "strips": (700, 300),
    "strips of few columns": (30_000, 3),
    "one column": (70_000, 1),
    "one row": (1, 70_000),
    "ranges of columns": (5, 20_000),
    "strips and ranges": (100, 17_000),
    "groups of small matrices": (900, 7, 9),
    "filters": (64, 48, 5, 5),
    "batch of large matrices": (3, 300, 200),
    "more columns than factors are kept of": (2, 70_001),
}


def parameters(names: Any = SHAPES, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(SHAPES[name], generator=generator).to(dtype)) for name in names]


def train(params: list[nn.Parameter], *, steps: int = 3, make: Any = Adafactor, **options: Any) -> Adafactor:
    """Takes steps whose gradients follow from the shapes; those of most rows are zero in some."""
    optimizer = make(params, **options)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            grad = torch.randn(param.shape, generator=generator)
            if step and param.dim() == 2:
                grad[torch.rand(len(grad), generator=generator) < 0.8] = 0
            param.grad = grad.to(param.dtype)
        optimizer.step()
    return optimizer


def digest(optimizer: Adafactor) -> str:
    """Of all bits of parameters and state."""
    summed = hashlib.sha256()
    for group in optimizer.param_groups:
        for param in group["params"]:
            for value in (param.detach(), *optimizer.state[param].values()):
                summed.update(value.contiguous().view(-1).view(torch.uint8).numpy())
    return summed.hexdigest()


OPTIONS: dict[str, tuple[torch.dtype, Any, dict[str, Any]]] = {
    "torch": (torch.float32, Adafactor, {}),
    "transformers": (torch.float32, TransformersAdafactor, {}),
    "fp64": (torch.float64, Adafactor, {"eps": (1e-3, 1e-3)}),
    "momentum": (torch.float32, Adafactor, {"beta1": 0.9, "weight_decay": 0.1, "maximize": True}),
    "constant lr": (torch.float32, Adafactor, {"scale_parameter": False, "relative_step": False}),
    "bf16": (torch.bfloat16, Adafactor, {"stochastic_rounding": False}),
    "fp16": (torch.float16, TransformersAdafactor, {}),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_every_kind_of_work_equals_plain(options: str) -> None:
    dtype, make, chosen = OPTIONS[options]
    optimizers = [train(parameters(dtype=dtype), make=make, compiled=compiled, **chosen) for compiled in (True, False)]

    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    rounding = 0.0 if dtype in (torch.float32, torch.float64) else torch.finfo(dtype).eps
    for name, ours, theirs in zip(SHAPES, *(o.param_groups[0]["params"] for o in optimizers), strict=True):
        own, other = ours.detach().double(), theirs.detach().double()
        assert (own - other).norm() <= (tolerance + 0.1 * rounding) * other.norm(), name
        for key, value in optimizers[1].state[theirs].items():
            close = optimizers[0].state[ours][key].double() - value.double()
            allowed = 1e-4 if key == "exp_avg" else tolerance + rounding / 100
            if key == "RMS" and dtype != torch.float64:
                allowed = 5e-6  # the plain step sums p² in float32 by a dot product, which loses digits on one thread
            assert close.norm() <= allowed * value.double().norm(), (name, key)


@pytest.mark.parametrize("options", ["torch", "fp64", "momentum", "bf16 at random"])
def test_bits_are_the_same_with_one_two_and_four_threads(options: str) -> None:
    dtype, make, chosen = OPTIONS.get(options, (torch.bfloat16, Adafactor, {"beta1": 0.9}))
    threads = torch.get_num_threads()
    digests = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            digests.append(digest(train(parameters(dtype=dtype), make=make, compiled=True, **chosen)))
    finally:
        torch.set_num_threads(threads)

    assert len(set(digests)) == 1


BITS = """
from tests.lightning_adafactor.compiled.test_step import digest, parameters, train
print(digest(train(parameters(), compiled=True)))
"""


@pytest.mark.slow
def test_bits_are_the_same_in_this_process_and_in_one_of_four_threads() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "4"}
    run = subprocess.run([sys.executable, "-c", BITS], env=environment, capture_output=True, text=True, check=True)

    assert run.stdout.split()[-1] == digest(train(parameters(), compiled=True))


def test_bits_are_the_same_with_every_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    step = loaded.step
    digests = []
    for number in range(loaded.instruction_sets):
        monkeypatch.setattr(loaded, "step", lambda *of, number=number: step(*of, instruction_set=number))
        digests.append(
            [digest(train(parameters(dtype=dtype), compiled=True)) for dtype in (torch.float32, torch.bfloat16)]
        )

    assert all(one == digests[0] for one in digests)


def test_openmp_threads_are_used_where_torch_has_no_parallel_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    if loaded._parallel[1] is None:
        pytest.skip("this torch runs its threads by another runtime")
    expected = digest(train(parameters(), compiled=True))
    monkeypatch.setattr(loaded, "_parallel", (None, loaded._parallel[1]))

    assert digest(train(parameters(), compiled=True)) == expected


def test_optimizers_may_step_in_several_threads_at_once() -> None:
    expected = digest(train(parameters(), compiled=True))
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(digest(train(parameters(), compiled=True)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [expected] * 3


# Random bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64,), (5, 40), (300, 700), (700, 3), (3, 4, 24), (2, 3, 3, 3), (100_001,), ()])
@pytest.mark.parametrize("seed", [0, 2**40 + 7, -3])
def test_random_bits_are_those_of_rounding(shape: tuple[int, ...], seed: int) -> None:
    """The gradient is zero, so p·0.9 is written, rounded with the random bits of the element."""
    start = torch.randn(shape).bfloat16()
    other, param = nn.Parameter(torch.zeros(2)), nn.Parameter(start.clone())
    optimizer = Adafactor([other, param], lr=1.0, weight_decay=0.1, relative_step=False, seed=seed, compiled=True)
    param.grad = torch.zeros_like(param)
    optimizer.step()

    grid = Grid(shape, max(1, start.numel()))
    bits = random_bits(seed, grid, 0, start, step=1, parameter=1)
    decayed = start.float() * (1.0 - 1.0 * 0.1)
    assert torch.equal(param.detach(), round_stochastically(decayed, bits).bfloat16())


def test_rounded_parameters_equal_those_of_plain_where_sums_agree() -> None:
    """Without clipping and scaling, an element depends only on its row, its column and its random bits."""
    results = []
    for compiled in (True, False):
        param = nn.Parameter(torch.linspace(-3, 3, 24 * 40).view(24, 40).bfloat16())
        param.grad = torch.ones_like(param)
        Adafactor([param], lr=2.0**-10, scale_parameter=False, relative_step=False, compiled=compiled).step()
        results.append(param.detach())

    assert torch.equal(*results)


# Any problem -------------------------------------------------------------------------------------------------------

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@st.composite
def problem(draw: st.DrawFn) -> tuple[Tensor, list[Tensor]]:
    """A parameter and the gradients of three steps, of any strides and dtypes, some rows zero."""
    large = draw(st.booleans())
    shape = tuple(
        draw(st.lists(st.integers(100, 400), min_size=2, max_size=2))
        if large
        else draw(st.lists(st.integers(0, 40), max_size=3) | st.lists(st.integers(0, 5), max_size=6))
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def filled(scale: Tensor | float, dtype: torch.dtype) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return _like(draw(strided(shape)), dtype).copy_(values)

    dtype = draw(st.sampled_from(DTYPES))
    grad_dtype = draw(st.sampled_from(DTYPES)) if draw(st.booleans()) else dtype
    grads = []
    for _ in range(3):
        magnitude = 10.0 ** draw(st.integers(-3, 2))
        dropped = torch.rand(shape[-2:-1] + (1,) * bool(shape), generator=generator) < draw(
            st.sampled_from([0.0, 0.7, 1.0])
        )
        grads.append(filled(torch.ones(()).masked_fill(dropped, 0.0) * magnitude, grad_dtype))
    return filled(draw(st.sampled_from([0.0, 1.0])), dtype), grads


def _like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of the same shape and strides, gaps included, in another dtype."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.zeros(max(span, 1), dtype=dtype).as_strided(tensor.shape, tensor.stride())


@settings(max_examples=150)
@given(problem=problem(), data=st.data())
@pytest.mark.parametrize(
    ("make", "options"),
    [pytest.param(Adafactor, TORCH, id="torch"), pytest.param(TransformersAdafactor, TRANSFORMERS, id="transformers")],
)
def test_any_problem_gives_the_numbers_of_plain(
    make: Any, options: st.SearchStrategy[dict[str, Any]], problem: tuple[Tensor, list[Tensor]], data: st.DataObject
) -> None:
    start, grads = problem
    chosen = {**data.draw(options), "stochastic_rounding": False}
    grad_scale = data.draw(st.sampled_from([None, torch.tensor(8.0)]))
    params = [nn.Parameter(_like(start, start.dtype).copy_(start)) for _ in range(2)]
    optimizers = [make([param], compiled=way, **chosen) for param, way in zip(params, (True, False), strict=True)]
    norms = [start.double().norm()]  # an update may cancel what the parameter was, but not its rounding
    for grad in grads:
        for param, optimizer in zip(params, optimizers, strict=True):
            param.grad = None
            if grad.dtype == param.dtype:
                param.grad = grad
                optimizer.grad_scale = grad_scale
                optimizer.step()
            else:
                step_with(optimizer, param, grad, grad_scale)
        norms.append(params[1].detach().double().norm())

    wide = start.dtype == torch.float64
    eps = torch.finfo(start.dtype).eps
    assert params[0].stride() == start.stride()
    close = (params[0].detach().double() - params[1].detach().double()).norm()
    canceled = 4 * torch.finfo(torch.float64 if wide else torch.float32).eps * max(norms)
    assert close <= (1e-11 if wide else max(1e-5, 0.5 * eps)) * norms[-1] + canceled + 1e-30
    for key, value in optimizers[1].state[params[1]].items():
        other = optimizers[0].state[params[0]][key].double()
        assert other.shape == value.shape
        assert (other - value.double()).norm() <= (1e-10 if wide else 2e-5) * value.double().norm() + 1e-30, key


def step_with(optimizer: Adafactor, param: nn.Parameter, grad: Tensor, grad_scale: Tensor | None) -> None:
    """Takes a step with a gradient of another dtype, which a parameter does not take."""
    from lightning_adafactor import compiled
    from lightning_adafactor.entry import Entry

    (group,) = optimizer.param_groups
    rule = optimizer._rule(group)
    state = optimizer.state[param]
    if not state:
        state.update(optimizer._new_state(param, rule))
    way = compiled if group["compiled"] else plain
    with torch.no_grad():
        way.adafactor([Entry.of(param.detach(), grad, state, 0, rule)], grad_scale=grad_scale)


# Layouts, memory ---------------------------------------------------------------------------------------------------


def test_layouts_that_are_not_supported_are_stepped_by_plain() -> None:
    """Four dimensions before the last two, which cannot be merged."""
    results = []
    for compiled in (True, False):
        params = [nn.Parameter(torch.zeros(4, 6, 4, 6, 2, 4)[::2, ::2, ::2, ::2]), nn.Parameter(torch.zeros(3, 2))]
        for param in params:
            param.grad = torch.linspace(1, 2, param.numel()).view(param.shape)
        optimizer = Adafactor(params, lr=0.1, compiled=compiled)
        optimizer.step()
        results.append(params[0].detach().clone())
        if compiled:
            choices = list(optimizer.implementation().values())
            assert [choice.path for choice in choices] == ["plain", "compiled"]
            assert "dimensions before the last two" in choices[0].reasons["compiled"]

    torch.testing.assert_close(*results)
    assert (results[0] != 0).all()


def test_scratch_memory_is_below_one_mebibyte_and_kept() -> None:
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    params = parameters()
    optimizer = train(params, compiled=True)

    assert loaded.scratch_bytes <= 2**20
    assert peak_on_cpu(lambda: None, optimizer.step) <= 2**16


def test_rows_of_the_table_have_the_size_that_the_library_expects() -> None:
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    assert loaded.entry_bytes == table.ROW.size


def test_instruction_sets_are_known_by_name() -> None:
    loaded = library.load()
    assert isinstance(loaded, library.Library)
    assert 1 <= loaded.instruction_sets <= len(build.INSTRUCTION_SETS)


# What is chosen ----------------------------------------------------------------------------------------------------


def test_implementation_names_path_and_reasons_by_parameter() -> None:
    model = nn.Linear(3, 2)
    optimizer = Adafactor(model.named_parameters())

    choices = optimizer.implementation()
    assert list(choices) == ["weight", "bias"]
    assert {choice.path for choice in choices.values()} == {"compiled"}
    assert all(list(choice.reasons) == ["fused"] and choice.reasons["fused"] for choice in choices.values())
    (counted,) = implementation.summarize(choices.values())
    assert (counted["path"], counted["parameters"]) == ("compiled", 2)


def test_compiled_false_is_plain_and_named_as_the_reason() -> None:
    (choice,) = Adafactor([nn.Parameter(torch.ones(2))], compiled=False).implementation().values()

    assert choice.path == "plain"
    assert choice.reasons["compiled"] == "compiled=False was given"


def test_compiled_raises_with_the_reason_where_it_is_not_supported() -> None:
    class Wrapped(Tensor):
        pass

    wrapped = nn.Parameter(torch.ones(2).as_subclass(Wrapped))
    with pytest.raises(
        RuntimeError, match=r"^compiled=True is not supported: the compiled step supports plain tensors, not Wrapped"
    ):
        Adafactor([wrapped], compiled=True)
