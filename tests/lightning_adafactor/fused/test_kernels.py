"""The kernels' numbers: against the rule in float64, and against the plain step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adafactor import Adafactor, TransformersAdafactor, plain
from lightning_adafactor.entry import Entry
from lightning_adafactor.fused.step import FusedAdafactor
from lightning_adafactor.rule import Rule
from tests.lightning_adafactor import specs
from tests.lightning_adafactor.fused import harness
from tests.lightning_adafactor.fused.harness import CLASSES, FEW, SMALL_TILES, fused
from tests.lightning_adafactor.reference import ReferenceOptimizer

TOLERANCE = 1e-6
STEPS = (1, specs.SPIKE, specs.ZERO_ROW)
ALL_OPTIONS = [("torch", options) for options in specs.TORCH_OPTIONS | specs.ADDED_OPTIONS if options != "foreach"]
ALL_OPTIONS += [("transformers", options) for options in specs.TRANSFORMERS_OPTIONS]
REPRESENTATIVE = [
    pytest.param("torch", "all", marks=pytest.mark.slow),
    ("torch", "fine-tuning"),
    pytest.param("transformers", "warmup", marks=pytest.mark.slow),
    ("transformers", "all"),
]


def options_of(dialect: str, name: str) -> dict[str, Any]:
    table = specs.TRANSFORMERS_OPTIONS if dialect == "transformers" else specs.TORCH_OPTIONS | specs.ADDED_OPTIONS
    return {key: value for key, value in table[name].items() if key != "foreach"}


def check_against_float64(dialect: str, options: str, names: list[str], steps: tuple[int, ...], device: str) -> None:
    arguments = options_of(dialect, options)
    ours = fused(harness.cases(names, torch.float32, device), CLASSES[dialect], **arguments)
    theirs = ReferenceOptimizer(harness.cases(names, torch.float32, device), dialect, arguments)
    harness.assert_steps_agree(ours, theirs, names, steps, TOLERANCE)


@pytest.mark.parametrize(("dialect", "options"), REPRESENTATIVE)
def test_float32_is_the_rule_in_float64_to_1e_6(dialect: str, options: str, device: str) -> None:
    check_against_float64(dialect, options, FEW, STEPS, device)


OTHER_LAYOUTS = [
    "n×1",
    "1×n",
    "conv",
    "transposed 1×n",
    "conv, channels last",
    "every other column",
    "transposed gradient",
    "contiguous gradient of transposed",
    "starts at zero",
]
"""Of the cases that are not in ``FEW``, those whose addresses or branches are not those of another one."""


def test_float32_is_the_rule_in_float64_for_other_layouts(device: str) -> None:
    check_against_float64("torch", "momentum", OTHER_LAYOUTS, (1,), device)


@pytest.mark.slow
def test_float32_is_the_rule_in_float64_for_every_layout(device: str) -> None:
    rest = [name for name in specs.CASES if name not in FEW]
    rest.remove("large batch of small matrices")
    check_against_float64("torch", "momentum", rest, (1, specs.SPIKE), device)


@pytest.mark.parametrize(
    ("dtype", "stochastic"),
    [
        pytest.param(torch.bfloat16, True, id="bf16-stochastic"),
        pytest.param(torch.bfloat16, False, id="bf16-nearest"),
        pytest.param(torch.float16, False, id="fp16"),
    ],
)
def test_low_precision_parameters_get_the_bits_of_the_plain_step(
    dtype: torch.dtype, stochastic: bool, device: str
) -> None:
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1, "stochastic_rounding": stochastic, "seed": -5}
    params, expected = harness.cases(FEW, dtype, device), harness.cases(FEW, dtype, "cpu")
    ours, theirs = fused(params, **options), Adafactor(expected, fused=False, compiled=False, **options)
    for optimizer in (ours, theirs):
        harness.train(
            optimizer,
            lambda step, number, param: specs.gradient(FEW[number], step, dtype, param.device.type),
            [1, specs.SPIKE],
        )
    moved = 0
    for name, param, other in zip(FEW, params, expected, strict=True):
        moved += assert_same_but_for_single_ulps(param, other, name)
    assert moved <= 2, "elements, of 1600, where the last bits of float32 decided"


def assert_same_but_for_single_ulps(ours: Tensor, theirs: Tensor, name: str) -> int:
    """Asserts that no element differs by more than one unit in the last place; returns how many differ."""
    p, q = (param.detach().cpu().contiguous().view(torch.int16).int() for param in (ours, theirs))
    assert (p - q).abs().max() <= 1, name
    return int((p != q).sum())


@pytest.mark.parametrize(
    ("param_dtype", "grad_dtype"),
    [
        pytest.param(torch.float32, torch.bfloat16, id="bf16 gradient of fp32"),
        pytest.param(torch.bfloat16, torch.float32, id="fp32 gradient of bf16"),
        pytest.param(torch.float16, torch.bfloat16, id="bf16 gradient of fp16"),
    ],
)
def test_gradients_may_have_another_dtype(param_dtype: torch.dtype, grad_dtype: torch.dtype, device: str) -> None:
    rule = Rule(lr=0.1, weight_decay=0.1, beta1=0.9, stochastic_rounding=True)
    ours = [entry(shape, param_dtype, grad_dtype, rule, device) for shape in ((24, 16), (9,))]
    theirs = [entry(shape, param_dtype, grad_dtype, rule, "cpu") for shape in ((24, 16), (9,))]

    FusedAdafactor(SMALL_TILES)(ours)
    plain.adafactor(theirs)

    for one, other in zip(ours, theirs, strict=True):
        if param_dtype == torch.float32:
            assert harness.relative_error(one.param, other.param) < TOLERANCE
        else:
            assert assert_same_but_for_single_ulps(one.param, other.param, str(one.param.shape)) <= 1
        assert not torch.equal(one.param.cpu(), entry(one.param.shape, param_dtype, grad_dtype, rule, "cpu").param)


def entry(shape: Any, param_dtype: torch.dtype, grad_dtype: torch.dtype, rule: Rule, device: str) -> Entry:
    """An entry of its own, with the state of the first step."""
    (param,) = harness.random_params([shape], param_dtype, device)
    state = Adafactor([param], beta1=rule.beta1)._new_state(param, rule)
    state["step"] = state["step"].to(device)
    grad = harness.random_gradients(1, 0, param.detach()).to(grad_dtype)
    return Entry.of(param.detach(), grad, state, 0, rule)


REAL_TILINGS = [
    pytest.param((300, 136), torch.float32, id="fp32 matrix of 4 tiles"),
    pytest.param((270, 264), torch.bfloat16, id="bf16 matrix of 4 tiles", marks=pytest.mark.slow),
    pytest.param((259, 131), torch.float32, id="unaligned matrix of 4 tiles", marks=pytest.mark.slow),
    pytest.param((33000,), torch.float32, id="vector of 2 tiles"),
]


@pytest.mark.parametrize(("shape", "dtype"), REAL_TILINGS)
def test_tiles_of_the_usual_size_agree_with_the_plain_step(
    shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    ours = fused(harness.random_params([shape], dtype, device), tilings={}, beta1=0.9)
    theirs = Adafactor(harness.random_params([shape], dtype, "cpu"), fused=False, compiled=False, beta1=0.9)
    exact = ReferenceOptimizer(harness.random_params([shape], dtype, "cpu"), "torch", {"beta1": 0.9})
    for optimizer in (ours, theirs, exact):
        harness.train(optimizer, harness.random_gradients, [1])
    (param,), (expected,), (number,) = (one.param_groups[0]["params"] for one in (ours, theirs, exact))
    if dtype == torch.float32:
        assert harness.relative_error(param, number) < TOLERANCE
    else:
        assert assert_same_but_for_single_ulps(param, expected, str(shape)) <= 10
    for key, value in exact.state[number].items():
        assert harness.relative_error(ours.state[param][key], torch.as_tensor(value)) < TOLERANCE, key


@pytest.mark.parametrize("transposed", [False, True])
def test_mean_of_more_rows_than_a_chunk_is_added_up_over_chunks(transposed: bool, device: str) -> None:
    shape = (2100, 8)
    tilings = {torch.float32: harness.Tiling(1024, 8, 1024)}

    def params(device: str) -> list[Tensor]:
        (param,) = harness.random_params([shape], torch.float32, device)
        return [(param.detach().t() if transposed else param.detach()).requires_grad_()]

    ours, theirs = fused(params(device), tilings=tilings), Adafactor(params("cpu"), fused=False, compiled=False)
    for optimizer in (ours, theirs):
        harness.train(optimizer, harness.random_gradients, [1, 2])
    (param,), (expected,) = ours.param_groups[0]["params"], theirs.param_groups[0]["params"]
    assert harness.relative_error(param, expected) < TOLERANCE


@pytest.mark.parametrize("shape", [(16, 24), (2, 8, 16), (64,)])
def test_unaligned_views_of_aligned_shapes_agree_with_the_plain_step(shape: tuple[int, ...], device: str) -> None:
    def optimizer(device: str, **options: Any) -> Adafactor:
        (values,) = harness.random_params([shape], torch.float32, device)
        storage = torch.zeros(values.numel() + 1, device=device)
        param = storage[1:].view(shape).copy_(values.detach()).requires_grad_()
        return fused([param]) if options else Adafactor([param], fused=False, compiled=False)

    ours, theirs = optimizer(device, fused=True), optimizer("cpu")
    for one in (ours, theirs):
        harness.train(one, harness.random_gradients, [1, 2])
    assert harness.relative_error(ours.param_groups[0]["params"][0], theirs.param_groups[0]["params"][0]) < TOLERANCE


def test_float16_overflows_to_infinity_and_rounds_ties_to_even(device: str) -> None:
    # lr 1 without clipping or scaling and one element: U = ±1 exactly
    param = torch.tensor([65504.0, 2048.0, 2050.0], dtype=torch.float16, device=device).requires_grad_()
    options = {"lr": 1.0, "relative_step": False, "scale_parameter": False, "maximize": True}
    optimizer = fused([param], **options)
    param.grad = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float16, device=device)
    optimizer.step()
    assert param.tolist() == [65504.0, 2048.0, 2052.0]

    param.data.fill_(65504.0)
    optimizer.param_groups[0]["lr"] = 100.0
    optimizer.step()
    assert param.tolist() == [torch.inf] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_in_a_gradient_spreads_as_on_the_plain_path(dtype: torch.dtype, device: str) -> None:
    shapes = [(16, 8), (2, 4, 8), (9,)]

    def gradients(step: int, number: int, param: Tensor) -> Tensor:
        grad = harness.random_gradients(step, number, param)
        grad[(0,) * grad.dim()] = torch.nan
        return grad

    ours = fused(harness.random_params(shapes, dtype, device))
    theirs = Adafactor(harness.random_params(shapes, dtype, "cpu"), fused=False, compiled=False)
    for optimizer in (ours, theirs):
        harness.train(optimizer, gradients, [1])
    for param, expected in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        torch.testing.assert_close(param.detach().cpu(), expected.detach(), equal_nan=True)
    matrix, batch, vector = ours.param_groups[0]["params"]
    assert matrix.isnan().all()
    assert batch[0].isnan().all()
    assert batch[1].isfinite().all()
    assert vector.isnan().tolist() == [True] + [False] * 8


@pytest.mark.parametrize("seed", [0, 2**40 + 3, 2**63 + 12345, 2**64 - 1, 2**70 + 7, -1])
def test_random_bits_are_those_of_the_plain_step_for_seeds_of_any_size(seed: int, device: str) -> None:
    options = {"lr": 0.1, "seed": seed}
    ours = fused(harness.random_params([(16, 24)], torch.bfloat16, device), **options)
    theirs = Adafactor(harness.random_params([(16, 24)], torch.bfloat16, "cpu"), fused=False, compiled=False, **options)
    other = Adafactor(
        harness.random_params([(16, 24)], torch.bfloat16, "cpu"), fused=False, compiled=False, lr=0.1, seed=99
    )
    for optimizer in (ours, theirs, other):
        harness.train(optimizer, harness.random_gradients, [1])
    (param,), (expected,), (wrong,) = (one.param_groups[0]["params"] for one in (ours, theirs, other))
    assert assert_same_but_for_single_ulps(param, expected, "seed") <= 1
    assert (param.cpu() != wrong).sum() > 20


@pytest.mark.parametrize("beta2_decay", [-0.8, 0.0])
def test_groups_of_one_table_are_rounded_each_in_its_own_way(beta2_decay: float, device: str) -> None:
    def groups(device: str) -> list[dict[str, Any]]:
        params = harness.random_params([(16, 24), (40,)] * 2, torch.bfloat16, device)
        return [
            {"params": params[:2], "stochastic_rounding": True},
            {"params": params[2:], "stochastic_rounding": False},
        ]

    ours = fused(groups(device), lr=0.1, beta2_decay=beta2_decay)
    theirs = Adafactor(groups("cpu"), lr=0.1, beta2_decay=beta2_decay, fused=False, compiled=False)
    for optimizer in (ours, theirs):
        harness.train(optimizer, harness.random_gradients, [1])
    for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        for param, expected in zip(mine["params"], other["params"], strict=True):
            assert assert_same_but_for_single_ulps(param, expected, str(mine["stochastic_rounding"])) <= 1


def test_transformers_rms_is_recorded(device: str) -> None:
    ours = fused(harness.random_params([(16, 24), (7,)], torch.float32, device), TransformersAdafactor)
    before = [param.detach().clone() for param in ours.param_groups[0]["params"]]
    harness.train(ours, harness.random_gradients, [1])
    for param, old in zip(ours.param_groups[0]["params"], before, strict=True):
        assert ours.state[param]["RMS"].item() == pytest.approx(old.square().mean().sqrt().item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "options"), ALL_OPTIONS)
def test_float32_is_the_rule_in_float64_for_every_option(dialect: str, options: str, device: str) -> None:
    steps = (1, specs.SPIKE, specs.ALL_ZERO, specs.ZERO_COLUMN)
    check_against_float64(dialect, options, ["square", "batched and transposed", "vector", "embedding"], steps, device)


@pytest.mark.parametrize("name", ["tiny gradient of a vector", "tiny gradient"])
def test_eps1_of_transformers_is_averaged_together_with_the_squares(name: str, device: str) -> None:
    check_against_float64("transformers", "eps1 above many gradients", [name], (1, 2), device)
