"""The fused step as an optimizer: buckets, tables that are kept, gradient scalers, bits that repeat."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adafactor import Adafactor, TransformersAdafactor, fused
from lightning_adafactor.fused import kernels
from lightning_adafactor.fused import step as step_module
from lightning_adafactor.fused.table import WorkTable
from tests.lightning_adafactor.fused import harness
from tests.lightning_adafactor.fused.harness import (
    SHAPES,
    TOLERANCE,
    assert_same_bits,
    assert_same_params,
    bits,
    pair,
    random_gradients,
    random_params,
    train,
)


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many parameters each table that was built has."""
    built: list[int] = []

    class Counted(WorkTable):
        def __init__(self, entries: Any, *args: Any, **kwargs: Any) -> None:
            built.append(len(entries))
            super().__init__(entries, *args, **kwargs)

    monkeypatch.setattr(step_module, "WorkTable", Counted)
    return built


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that were launched."""
    launched: list[str] = []

    class Counted:
        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(kernels, name)

        def __getitem__(self, grid: tuple[int]) -> Any:
            launched.append(self.name)
            return self.kernel[grid]

    for name in kernels.__all__:
        monkeypatch.setattr(kernels, name, Counted(name))
    return launched


# Launches and tables -----------------------------------------------------------------------------------------------


def test_a_step_is_five_launches_however_many_parameters(launches: list[str], device: str) -> None:
    optimizer = harness.fused(random_params([(4, 4)] * 6 + [(3,)] * 3, torch.float32, device))
    train(optimizer, random_gradients, [1])
    expected = ["sum_squares", "update_factors", "sum_updates", "find_scalars", "apply_updates"]
    assert launches == expected
    assert len(launches) == 5


def test_a_step_without_gradients_launches_nothing(launches: list[str], device: str) -> None:
    optimizer = harness.fused(random_params([(4, 4)], torch.float32, device))
    optimizer.step()
    assert launches == []


def test_each_dtype_has_launches_of_its_own(launches: list[str], device: str) -> None:
    params = [random_params([(4, 4)], dtype, device)[0] for dtype in fused.DTYPES]
    train(harness.fused(params), random_gradients, [1])
    assert len(launches) == 5 * len(fused.DTYPES)


def test_a_step_keeps_no_gradient_alive(device: str) -> None:
    optimizer = harness.fused(random_params([(8, 8), (5,)], torch.float32, device))
    for step in (1, 2):
        train(optimizer, random_gradients, [step])
        gradients = [weakref.ref(param.grad) for param in optimizer.param_groups[0]["params"]]
        optimizer.zero_grad()
        assert [gradient() for gradient in gradients] == [None, None]


def test_after_release_memory_a_state_that_was_moved_is_not_kept_alive(device: str) -> None:
    ours, theirs = pair([(8, 8), (5,)], device, beta1=0.9)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1, 2])
    old = []
    for state in ours.state.values():
        for name, value in state.items():
            old.append(weakref.ref(value))
            state[name] = value.clone()
    del value
    ours.release_memory()
    assert [reference() for reference in old] == [None] * len(old)

    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [3])
    assert_same_params(ours, theirs)


def test_a_scheduler_rebuilds_nothing(builds: list[int], device: str) -> None:
    ours, theirs = pair([(8, 8), (5,)], device, relative_step=False)
    for optimizer in (ours, theirs):
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for step in (1, 2, 3):
            train(optimizer, random_gradients, [step])
            schedule.step()
    assert_same_params(ours, theirs)
    assert builds == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("where", ["cpu", "device"])
def test_tensor_lr_is_read_in_each_step(dtype: torch.dtype, where: str, builds: list[int], device: str) -> None:
    lr = torch.tensor(0.25, dtype=dtype, device=device if where == "device" else "cpu")
    ours, theirs = pair([(8, 8)], device, lr=lr, relative_step=False)
    for value in (0.25, 0.125):
        lr.fill_(value)
        for optimizer in (ours, theirs):
            train(optimizer, random_gradients, [1])
    assert_same_params(ours, theirs)
    assert builds == [1]


def test_other_options_may_change_between_steps(device: str) -> None:
    ours, theirs = pair([(8, 8), (5,)], device)
    changes: list[dict[str, Any]] = [
        {"weight_decay": 0.5, "maximize": True},
        {"beta1": 0.9},
        {"scale_parameter": False, "d": 2.0},
        {"beta1": None},
        {"relative_step": False, "lr": 0.3},
    ]
    for step, change in enumerate(changes):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0].update(change)
            train(optimizer, random_gradients, [step])
        assert_same_params(ours, theirs)


def test_gradients_at_new_addresses_rebuild_nothing(builds: list[int], device: str) -> None:
    ours, theirs = pair([(8, 8), (5,)], device)
    kept = []  # so that no address is used twice
    for step in (1, 2, 3):
        for optimizer in (ours, theirs):
            train(optimizer, random_gradients, [step])
            kept += [param.grad for param in optimizer.param_groups[0]["params"]]
    assert_same_params(ours, theirs)
    assert builds == [2]


def test_a_gradient_of_other_strides_is_read_by_its_own(device: str) -> None:
    ours, theirs = pair([(16, 16)], device)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1])
        train(optimizer, lambda *args: random_gradients(*args).t().contiguous().t(), [2])
        train(optimizer, lambda *args: random_gradients(*args).repeat_interleave(2, 1)[:, ::2], [3])
    assert_same_params(ours, theirs)


def test_a_parameter_moved_in_memory_is_found(builds: list[int], device: str) -> None:
    ours, theirs = pair([(16, 8)], device)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1])
        param = optimizer.param_groups[0]["params"][0]
        old = param.data
        param.data = old.clone()
        state = optimizer.state[param]
        state["row_var"] = state["row_var"].clone()
        train(optimizer, random_gradients, [2])
        assert not torch.equal(old, param)
    assert_same_params(ours, theirs)
    assert builds == [1, 1]


def test_parameters_without_gradient_stay_unchanged(device: str) -> None:
    def gradients(step: int, number: int, param: Tensor) -> Tensor | None:
        return None if (step + number) % 3 == 0 else random_gradients(step, number, param)

    ours, theirs = pair(SHAPES, device, beta1=0.5)
    for optimizer in (ours, theirs):
        train(optimizer, gradients, [1, 2, 3, 4])
    assert_same_params(ours, theirs)
    steps = [float(ours.state[param]["step"]) for param in ours.param_groups[0]["params"]]
    assert steps == [float(theirs.state[param]["step"]) for param in theirs.param_groups[0]["params"]]


def test_groups_have_their_own_options(builds: list[int], device: str) -> None:
    def groups(device: str) -> list[dict[str, Any]]:
        one, two, three, four = random_params(SHAPES, torch.float32, device)
        return [
            {"params": [one, three], "lr": 0.5, "relative_step": False, "weight_decay": 0.1},
            {"params": [two], "beta1": 0.9, "maximize": True, "eps": (1e-4, 0.1)},
            {"params": [four], "scale_parameter": False, "d": 3.0},
        ]

    ours, theirs = harness.fused(groups(device)), Adafactor(groups("cpu"), fused=False, compiled=False)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1, 2])
    assert_same_params(ours, theirs)
    assert builds == [4]


def test_a_group_may_be_added_later(device: str) -> None:
    ours, theirs = pair([(8, 8)], device)
    for optimizer, where in ((ours, device), (theirs, "cpu")):
        train(optimizer, random_gradients, [1])
        optimizer.add_param_group({"params": random_params([(5,), (4, 6)], torch.float32, where), "lr": 0.3})
        train(optimizer, random_gradients, [2])
    assert_same_params(ours, theirs)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (2, 0, 3)])
def test_empty_parameters_are_counted_and_nothing_else(shape: tuple[int, ...], device: str) -> None:
    ours, theirs = pair([shape, (4, 4)], device)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1])
    assert_same_params(ours, theirs)
    assert ours.state[ours.param_groups[0]["params"][0]]["step"] == 1
    assert not any(value.isnan().any() for value in ours.state[ours.param_groups[0]["params"][0]].values())


def test_only_empty_parameters(launches: list[str], device: str) -> None:
    optimizer = harness.fused(random_params([(0, 3)], torch.float32, device))
    train(optimizer, random_gradients, [1])
    assert launches == []


# Gradient scalers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_found_inf_changes_no_bit(dtype: torch.dtype, device: str) -> None:
    params = random_params([*SHAPES, (0, 3)], dtype, device)
    optimizer = harness.fused(params, TransformersAdafactor, beta1=0.9)
    train(optimizer, random_gradients, [1])
    before = bits(optimizer)

    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0, device=device), torch.ones(1, device=device)
    train(optimizer, random_gradients, [2])
    assert_same_bits(bits(optimizer), before)

    optimizer.found_inf.zero_()
    train(optimizer, random_gradients, [2])
    assert all(state["step"] == 2 for state in optimizer.state.values())
    assert not torch.equal(before["0"], bits(optimizer)["0"])


def test_found_inf_on_the_first_step_leaves_the_state_at_zero(device: str) -> None:
    optimizer = harness.fused(random_params(SHAPES, torch.float32, device))
    optimizer.found_inf = torch.ones((), device=device)
    train(optimizer, random_gradients, [1])
    assert all(value.count_nonzero() == 0 for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_grad_scale_divides_gradients(dtype: torch.dtype, device: str) -> None:
    ours, theirs = pair(SHAPES, device, dtype)
    ours.grad_scale, ours.found_inf = torch.full((1,), 128.0, device=device), torch.zeros(1, device=device)
    train(ours, lambda *args: random_gradients(*args) * 128, [1, 2])
    train(theirs, random_gradients, [1, 2])
    for param, expected in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert harness.relative_error(param, expected) < (TOLERANCE if dtype == torch.float32 else 1e-4)
        for key, value in theirs.state[expected].items():  # an update does not depend on the scale, the averages do
            assert harness.relative_error(ours.state[param][key], value) < 1e-5


@pytest.mark.parametrize("of", [Adafactor, TransformersAdafactor])
@pytest.mark.parametrize("copied", [lambda optimizer: optimizer, copy.deepcopy], ids=["made", "copied"])
def test_unscaling_is_claimed_where_the_fused_step_was_asked_for(of: Any, copied: Any, device: str) -> None:
    optimizer = copied(of(random_params([(2, 2)], torch.float32, device), fused=True))
    assert optimizer._step_supports_amp_scaling is True


@pytest.mark.parametrize("unscale_first", [False, True], ids=["scaled", "unscaled-by-the-user"])
def test_a_gradient_scaler_has_gradients_unscaled_once(unscale_first: bool, device: str) -> None:
    ours, theirs = pair(SHAPES, device, weight_decay=0.1)
    scaler = torch.amp.GradScaler(device, init_scale=64.0)
    for step in (1, 2):
        for optimizer, factor in ((ours, 64.0), (theirs, 1.0)):
            for number, param in enumerate(optimizer.param_groups[0]["params"]):
                # small enough for the floor of the variance to show a scale that was not divided out
                param.grad = random_gradients(step, number, param) * 1e-7 * factor
        scaler.scale(torch.zeros((), device=device))  # sets the scaler up, as a backward pass would
        if unscale_first:
            scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()
        theirs.step()
    assert_same_params(ours, theirs)
    assert not hasattr(ours, "grad_scale")
    assert not hasattr(ours, "found_inf")


def test_a_gradient_scaler_has_steps_that_overflowed_skipped(device: str) -> None:
    param = random_params([(4, 8)], torch.float32, device)[0]
    optimizer = harness.fused([param])
    scaler = torch.amp.GradScaler(device, init_scale=4.0)
    for bad in (False, True):
        optimizer.zero_grad()
        scaler.scale((param * (torch.inf if bad else 1.0)).sum()).backward()
        before = {"0": param.detach().clone()} if not bad else bits(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if bad:
            assert_same_bits(bits(optimizer), before)
        else:
            assert not torch.equal(before["0"], param)
    assert scaler.get_scale() == 2.0
    assert optimizer.state[param]["step"] == 1


# Bits that repeat --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.bfloat16])
def test_two_runs_from_one_seed_give_the_same_bits(dtype: torch.dtype, device: str) -> None:
    runs = []
    for _ in range(2):
        optimizer = harness.fused(random_params([(20, 70), (2, 9, 8), (103,)], dtype, device), seed=3, beta1=0.9)
        train(optimizer, random_gradients, [1, 2])
        runs.append(bits(optimizer))
    assert_same_bits(*runs)


def test_no_kernel_uses_atomics() -> None:
    sources = sorted(Path(kernels.__file__).parent.glob("*.py"))
    assert len(sources) >= 5
    for source in sources:
        assert "atomic_" not in source.read_text(), source.name


def test_bf16_gradients_below_its_machine_epsilon_move_it_as_a_float32_parameter(device: str) -> None:
    """ε₁ = None is the machine epsilon of the arithmetic."""
    moved = []
    for dtype in (torch.float32, torch.bfloat16):
        params = [torch.zeros(shape, dtype=dtype, device=device).requires_grad_() for shape in SHAPES]
        optimizer = harness.fused(params, lr=1e-2, relative_step=False, stochastic_rounding=False)
        train(optimizer, lambda _, __, param: torch.full_like(param, 2.0**-10), [1])
        moved.append(torch.cat([param.detach().float().flatten() for param in params]))

    torch.testing.assert_close(moved[1], moved[0], rtol=2**-8, atol=0)
    assert (moved[0] < 0).all()
