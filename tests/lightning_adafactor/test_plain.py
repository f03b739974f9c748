"""The step in plain torch operations: any shape, stride, option and tile size, and its memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.extra_memory import peak_on_cpu
from lightning_adafactor import Adafactor, TransformersAdafactor, plain
from lightning_adafactor.entry import Entry
from lightning_adafactor.rule import Rule
from tests.lightning_adafactor.reference import Reference

MIB = 2**20


def test_rows_that_never_had_a_gradient_leave_clipping_as_it_is() -> None:
    params = [nn.Parameter(torch.ones(4, 8)) for _ in range(2)]
    for param, compiled in zip(params, (False, None), strict=True):
        options: dict[str, Any] = {"lr": 0.1, "relative_step": False, "scale_parameter": False, "compiled": compiled}
        optimizer = TransformersAdafactor([param], eps=(0.0, 1e-3), **options)
        for scale in (1.0, 100.0):  # the second update is clipped
            param.grad = torch.full((4, 8), scale)
            param.grad[0] = 0
            optimizer.step()
    for param in params:
        assert (param[0] == 1).all()
        # the first update is 1 where there is a gradient; the second has an RMS of 1 over all four rows
        assert torch.allclose(param[1:], torch.tensor(1 - 0.1 - 0.1 * (4 / 3) ** 0.5), atol=1e-5)


@st.composite
def strided(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """An empty float64 tensor: its dimensions in any order in memory, perhaps with gaps, or one repeated."""
    order = draw(st.permutations(range(len(shape))))
    gaps = draw(st.lists(st.integers(1, 2), min_size=len(shape), max_size=len(shape)))
    padded = torch.zeros([shape[dim] * gap for dim, gap in zip(order, gaps, strict=True)], dtype=torch.float64)
    cut = padded[tuple(slice(None, None, gap) for gap in gaps)] if shape else padded
    return cut.permute([order.index(dim) for dim in range(len(shape))])


@st.composite
def problem(draw: st.DrawFn) -> tuple[Tensor, list[Tensor]]:
    """A parameter and the gradients of three steps, some elements zero, others tiny or huge."""
    shape = tuple(draw(st.lists(st.integers(0, 8), max_size=4)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def filled(scale: Tensor | float) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return draw(strided(shape)).copy_(values)

    grads = []
    for _ in range(3):
        magnitude = 10.0 ** draw(st.integers(-12, 4))
        spread = 10.0 ** (torch.rand(shape[-2:], generator=generator) * -draw(st.sampled_from([0, 8])))
        dropped = torch.rand(shape[-2:], generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
        grads.append(filled(spread.masked_fill(dropped, 0.0) * magnitude))
    return filled(draw(st.sampled_from([0.0, 1e-6, 1.0]))), grads


TORCH = st.fixed_dictionaries(
    {"lr": st.sampled_from([0.0, 0.01, 2.0]), "eps": st.sampled_from([(None, 1e-3), (1e-3, 0.5), (1e-12, 0.0)])},
    optional={
        "beta2_decay": st.sampled_from([0.0, -0.3, -1.0]),
        "d": st.sampled_from([1.0, 3.0]),
        "weight_decay": st.just(0.1),
        "maximize": st.booleans(),
        "scale_parameter": st.booleans(),
        "relative_step": st.just(False),
        "beta1": st.sampled_from([0.0, 0.9]),
    },
)
TRANSFORMERS = st.fixed_dictionaries(
    {"lr": st.sampled_from([0.0, 0.01]), "relative_step": st.just(False)},
    optional={
        "eps": st.sampled_from([(1e-30, 1e-3), (1e-8, 0.5)]),
        "decay_rate": st.sampled_from([-0.3, -1.0]),
        "clip_threshold": st.sampled_from([0.1, 3.0]),
        "maximize": st.booleans(),
        "weight_decay": st.just(0.1),
        "scale_parameter": st.booleans(),
        "beta1": st.sampled_from([0.0, 0.9]),
    },
)


@settings(max_examples=100)
@given(problem=problem(), tile_elements=st.integers(1, 64), data=st.data())
@pytest.mark.parametrize(
    ("make", "options"),
    [pytest.param(Adafactor, TORCH, id="torch"), pytest.param(TransformersAdafactor, TRANSFORMERS, id="transformers")],
)
def test_any_problem_in_any_tiles_is_the_rule_written_out(
    make: Any,
    options: st.SearchStrategy[dict[str, Any]],
    problem: tuple[Tensor, list[Tensor]],
    tile_elements: int,
    data: st.DataObject,
) -> None:
    start, grads = problem
    chosen = data.draw(options)
    reference = Reference([start], "torch" if make is Adafactor else "transformers", chosen)
    param = nn.Parameter(start)  # the tensor itself, strides and all
    optimizer = make([param], compiled=False, **chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "TILE_BYTES", tile_elements * 8)
        for grad in grads:
            param.grad = grad
            optimizer.step()
            if param.numel():
                reference.step([grad])

    torch.testing.assert_close(param.detach(), reference.params[0], rtol=1e-9, atol=1e-12)
    for name in ("row_var", "col_var", "variance", "exp_avg"):
        if name in reference.state[0]:
            own, other = optimizer.state[param][name], reference.state[0][name]
            torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-12 * other.abs().max().item())


# Entries -----------------------------------------------------------------------------------------------------------


def entry(param: Tensor, grad: Tensor, rule: Rule) -> Entry:
    dtype = torch.float64 if param.dtype == torch.float64 else torch.float32
    *batch, n, m = param.shape
    state = {
        "step": torch.tensor(0.0),
        "row_var": torch.zeros(*batch, n, 1, dtype=dtype),
        "col_var": torch.zeros(*batch, 1, m, dtype=dtype),
    }
    return Entry.of(param, grad, state, 0, rule)


@pytest.mark.parametrize("param_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("grad_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_gradient_may_have_another_dtype_than_the_parameter(param_dtype: torch.dtype, grad_dtype: torch.dtype) -> None:
    start, grad = torch.randn(6, 4).to(param_dtype), torch.randn(6, 4).to(grad_dtype)
    mine = entry(start.clone(), grad, Rule(lr=0.1))
    plain.adafactor([mine])
    reference = Reference([start], "torch", {"lr": 0.1})
    reference.step([grad])

    torch.testing.assert_close(mine.param, reference.params[0])
    assert mine.row_var is not None
    torch.testing.assert_close(mine.row_var.double(), reference.state[0]["row_var"], rtol=1e-5, atol=0)


def test_transposed_memory_is_processed_as_its_transpose() -> None:
    param, grad = torch.randn(6, 4).mT, torch.randn(4, 6)
    mine = entry(param, grad, Rule(lr=0.1))

    assert mine.transposed
    assert mine.param.is_contiguous()
    assert mine.param.shape == mine.grad.shape == (6, 4)
    assert mine.row_var is not None
    assert mine.row_var.shape == (6, 1)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (3, 5)])
def test_contiguous_memory_is_processed_as_it_is(shape: tuple[int, int]) -> None:
    assert not entry(torch.randn(shape), torch.randn(shape), Rule(lr=0.1)).transposed


# Memory ------------------------------------------------------------------------------------------------------------


def extra_memory(params: list[nn.Parameter], make: Any = Adafactor, **options: Any) -> float:
    """MiB that a step needs beyond parameters, gradients and state."""
    optimizer = make(params, compiled=False, **options)
    optimizer.step()
    return peak_on_cpu(lambda: None, optimizer.step) / MIB


def parameter(*shape: int, dtype: torch.dtype = torch.float32, layout: Any = Tensor.contiguous) -> nn.Parameter:
    param = nn.Parameter(layout(torch.randn(shape).to(dtype)))
    param.grad = torch.randn(shape).to(dtype)
    return param


KINDS = {
    "fp32": (torch.float32, {}),
    "fp32, momentum": (torch.float32, {"beta1": 0.9, "weight_decay": 0.1}),
    "fp32, floor active everywhere": (torch.float32, {"eps": (10.0, 1e-3)}),
    "fp64": (torch.float64, {}),
    "bf16": (torch.bfloat16, {"beta1": 0.9}),
    "bf16, to nearest": (torch.bfloat16, {"stochastic_rounding": False}),
    "fp16": (torch.float16, {"eps": (10.0, 1e-3)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_step_needs_eight_mebibytes_at_most(kind: str) -> None:
    dtype, options = KINDS[kind]

    assert extra_memory([parameter(1500, 2000, dtype=dtype)], **options) <= 8


# n×1 and 1×n have as much state as elements, and small matrices nearly as much
@pytest.mark.parametrize(
    "shape", [(3_000_000,), (3, 1000, 1000), (64, 50_000), (50_000, 64), (300_000, 10), (9, 300_000)]
)
@pytest.mark.parametrize("kind", ["fp32", "bf16", pytest.param("bf16, to nearest", marks=pytest.mark.slow)])
def test_step_needs_eight_mebibytes_at_most_whatever_the_shape(shape: tuple[int, ...], kind: str) -> None:
    dtype, options = KINDS[kind]

    assert extra_memory([parameter(*shape, dtype=dtype)], **options) <= 8


@pytest.mark.parametrize("shape", [(3_000_000, 1), (1, 3_000_000), (512, 512, 3, 3), (400_000, 3, 3)])
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_step_needs_eight_mebibytes_at_most_for_matrices_of_few_rows_or_columns(
    shape: tuple[int, ...], kind: str
) -> None:
    dtype, options = KINDS[kind]

    assert extra_memory([parameter(*shape, dtype=dtype)], **options) <= 8


@pytest.mark.parametrize("layout", [lambda x: x.mT.contiguous().mT, lambda x: torch.stack([x, x], -1)[..., 0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_cost_no_memory(layout: Any, dtype: torch.dtype) -> None:
    assert extra_memory([parameter(1500, 2000, dtype=dtype, layout=layout)]) <= 8


def test_memory_does_not_grow_with_the_matrix() -> None:
    grown = extra_memory([parameter(2500, 2000)]) - extra_memory([parameter(1250, 2000)])

    assert abs(grown) < 0.1


def test_memory_does_not_grow_with_the_number_of_tensors() -> None:
    shapes = [(64, 64), (64,), (8, 8, 3, 3), ()]
    few, many = ([parameter(*shape) for _ in range(count) for shape in shapes] for count in (5, 100))

    assert extra_memory(many) - extra_memory(few) < 0.1


def test_gradient_scale_costs_no_memory_of_the_parameters_size() -> None:
    param = parameter(1500, 2000)
    optimizer = Adafactor([param], compiled=False)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(0.0)
    optimizer.step()

    assert peak_on_cpu(lambda: None, optimizer.step) <= 8 * MIB


def test_first_step_needs_no_more_than_its_state_on_top() -> None:
    param = parameter(1500, 2000, dtype=torch.bfloat16)
    optimizer = Adafactor([param], compiled=False)

    assert peak_on_cpu(lambda: None, optimizer.step) <= 8 * MIB + 4 * (1500 + 2000) + 1024


@pytest.mark.parametrize("shape", [(700, 1000), (700_000,), (4097,), (5, 3)], ids=str)
def test_root_mean_square_keeps_its_digits(shape: tuple[int, ...]) -> None:
    param = nn.Parameter(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    expected = param.detach().double().square().mean().sqrt().item()
    param.grad = torch.ones_like(param)
    optimizer = TransformersAdafactor([param], compiled=False)
    optimizer.step()
    assert optimizer.state[param]["RMS"].item() == pytest.approx(expected, rel=2e-7)


def test_precision_of_matrix_products_changes_nothing() -> None:
    def root_mean_squares() -> list[float]:
        params = [nn.Parameter(torch.randn(9000, generator=torch.Generator().manual_seed(seed))) for seed in range(8)]
        optimizer = TransformersAdafactor(params, compiled=False)
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        return [optimizer.state[param]["RMS"].item() for param in params]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        lowered = root_mean_squares()
    finally:
        torch.set_float32_matmul_precision(before)
    assert lowered == root_mean_squares()


def test_equal_parameters_are_rounded_by_random_numbers_of_their_own() -> None:
    params = [torch.ones(64, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(2)]
    optimizer = Adafactor(params, lr=1e-3, scale_parameter=False, relative_step=False, fused=False)
    gradient = torch.randn(64, 32).bfloat16()
    for param in params:
        param.grad = gradient.clone()

    optimizer.step()

    one, other = (param.detach() for param in params)
    apart = (one != other).float().mean().item()
    assert 0.05 < apart < 0.95
    torch.testing.assert_close(one.float().mean(), other.float().mean(), rtol=0, atol=1e-3)
