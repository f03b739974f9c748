"""The fused step as an optimizer: buckets, tables that are kept, state, gradient scalers, bits that repeat."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adafactor import Adafactor, TransformersAdafactor, fused
from lightning_adafactor.fused import kernels
from lightning_adafactor.fused import step as step_module
from lightning_adafactor.fused.fields import MAX_DIMS
from lightning_adafactor.fused.table import WorkTable
from tests.lightning_adafactor.fused import harness
from tests.lightning_adafactor.fused.harness import assert_same_bits, bits, random_gradients, random_params, train

SHAPES = [(16, 24), (3, 5, 8), (20,), ()]
TOLERANCE = 1e-6


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


def pair(shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A fused optimizer and a plain one, of the same parameters."""
    ours = harness.fused(random_params(shapes, dtype, device), **options)
    return ours, Adafactor(random_params(shapes, dtype, "cpu"), fused=False, compiled=False, **options)


def assert_same_params(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        for param, expected in zip(mine["params"], other["params"], strict=True):
            assert param.numel() == 0 or harness.relative_error(param, expected) < TOLERANCE


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


# State -------------------------------------------------------------------------------------------------------------


SWITCHES = [
    # Each pair of a class, a dtype and a direction; what is left of all combinations are slow tests.
    pytest.param(
        of,
        dtype,
        fused_first,
        marks=[pytest.mark.slow] * ((i + j + k) % 2),
        id=f"{of.__name__}-{dtype}-{'fused-to-plain' if fused_first else 'plain-to-fused'}",
    )
    for i, of in enumerate((Adafactor, TransformersAdafactor))
    for j, dtype in enumerate((torch.float32, torch.bfloat16))
    for k, fused_first in enumerate((True, False))
]


@pytest.mark.parametrize(("of", "dtype", "fused_first"), SWITCHES)
def test_state_goes_from_one_path_to_the_other_mid_run(
    of: Any, dtype: torch.dtype, fused_first: bool, device: str
) -> None:
    def optimizer(fused: bool) -> Adafactor:
        params = random_params(SHAPES, dtype, device)
        return harness.fused(params, of, beta1=0.9) if fused else of(params, beta1=0.9, fused=False, compiled=False)

    first, second, throughout = optimizer(fused_first), optimizer(not fused_first), optimizer(False)
    train(first, random_gradients, [1, 2])
    for param, trained in zip(second.param_groups[0]["params"], first.param_groups[0]["params"], strict=True):
        param.data.copy_(trained.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.param_groups[0]["fused"] = not fused_first  # state_dict() carries it along
    train(second, random_gradients, [3, 4])
    train(throughout, random_gradients, [1, 2, 3, 4])

    for param, expected in zip(second.param_groups[0]["params"], throughout.param_groups[0]["params"], strict=True):
        if dtype == torch.float32:
            assert harness.relative_error(param, expected) < 2 * TOLERANCE
        else:
            assert (param != expected).sum() <= 1
        assert second.state[param].keys() == throughout.state[expected].keys()
        for key, value in throughout.state[expected].items():
            assert second.state[param][key].dtype == torch.float32
            assert second.state[param][key].shape == value.shape
            assert harness.relative_error(second.state[param][key], value) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_step_is_float32_on_the_device_of_its_parameter(device: str) -> None:
    optimizer = harness.fused(random_params([(4, 4)], torch.bfloat16, device))
    train(optimizer, random_gradients, [1, 2])
    (state,) = optimizer.state.values()
    assert state["step"].device.type == device
    assert state["step"].dtype == torch.float32
    assert state["step"].shape == ()
    assert state["step"] == 2


def test_nothing_of_the_table_is_in_state_dict(device: str) -> None:
    optimizer = harness.fused(random_params([(4, 6)], torch.float32, device))
    train(optimizer, random_gradients, [1])
    saved = optimizer.state_dict()
    assert saved["state"][0].keys() == {"step", "row_var", "col_var"}
    assert saved.keys() == {"state", "param_groups"}


def test_a_loaded_state_is_used_though_the_table_was_built_before(device: str) -> None:
    ours, theirs = pair([(8, 8), (5,)], device)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1])
        saved = copy.deepcopy(optimizer.state_dict())
        train(optimizer, random_gradients, [2, 3])
        optimizer.load_state_dict(saved)
        train(optimizer, random_gradients, [4])
    assert_same_params(ours, theirs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_copies_step_independently(copied: Any, device: str) -> None:
    ours, theirs = pair([(16, 24), ()], device)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1])
    clone = copied(ours)
    before = bits(ours)
    train(clone, random_gradients, [2])
    assert_same_bits(bits(ours), before)
    train(theirs, random_gradients, [2])
    assert_same_params(clone, theirs)


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


# Where it is not supported -----------------------------------------------------------------------------------------


def test_float64_is_refused_with_the_reason(device: str) -> None:
    with pytest.raises(RuntimeError, match=r"fused=True is not supported: the kernels support .* not float64"):
        Adafactor([torch.zeros(2, dtype=torch.float64, device=device)], fused=True)


def test_too_many_dimensions_are_refused_with_the_reason(device: str) -> None:
    with pytest.raises(RuntimeError, match=f"up to {MAX_DIMS} dimensions, not {MAX_DIMS + 1}"):
        Adafactor([torch.zeros((1,) * (MAX_DIMS + 1), device=device)], fused=True)


def test_foreach_and_fused_exclude_each_other(device: str) -> None:
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        Adafactor([torch.zeros(2, device=device)], fused=True, foreach=True)


WHAT_IS_MISSING = """
import importlib.util, json, sys
find = importlib.util.find_spec
import torch, lightning_adafactor
param = torch.zeros(3, 3, requires_grad=True)
param.grad = torch.ones(3, 3)

def refused(**arguments):
    lightning_adafactor.Adafactor([param]).step()  # without arguments, another implementation takes the step
    try:
        lightning_adafactor.Adafactor([param], **arguments).step()
    except RuntimeError as error:
        return str(error)

found = {"fused": refused(fused=True), "capturable": refused(capturable=True)}
for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
    del sys.modules[name]
sys.modules["triton"] = None
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
for cached in ("_triton_is_installed", "_unsupported_reason"):
    getattr(lightning_adafactor.fused, cached).cache_clear()
found["triton"] = refused(fused=True)
print(json.dumps(found))
"""


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Takes away what the kernels need."""
    fused._unsupported_reason.cache_clear()
    yield monkeypatch
    fused._unsupported_reason.cache_clear()


@pytest.mark.parametrize("argument", ["fused", "capturable"])
def test_the_error_names_a_gpu_and_the_interpreter_where_both_are_missing(
    argument: str, missing: pytest.MonkeyPatch
) -> None:
    missing.setattr(fused, "_kernels_are_interpreted", lambda: False)
    param = torch.zeros(2, 2, requires_grad=True)
    param.grad = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match=rf"{argument}=True is not .* need a CUDA device \(TRITON_INTERPRET=1"):
        Adafactor([param], **{argument: True}).step()


def test_the_error_names_triton_where_it_is_missing(missing: pytest.MonkeyPatch) -> None:
    missing.setattr(fused, "_triton_is_installed", lambda: False)
    with pytest.raises(RuntimeError, match="fused=True is not supported: Triton is not installed"):
        Adafactor([torch.zeros(2, 2)], fused=True)


@pytest.mark.slow
def test_in_a_process_without_them_the_error_names_gpu_and_interpreter_or_triton() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", WHAT_IS_MISSING], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    for argument in ("fused", "capturable"):
        assert f"{argument}=True is not supported" in found[argument]
        assert "need a CUDA device" in found[argument]
        assert "TRITON_INTERPRET=1" in found[argument]
    assert "fused=True is not supported: Triton is not installed" in found["triton"]


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
