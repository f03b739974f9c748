"""A gradient that is not finite: ignored, skipped or refused, as the option says."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adafactor import Adafactor, TransformersAdafactor
from lightning_adafactor.nonfinite import NonfiniteGradients, find_nonfinite

PATHS: dict[str, dict[str, Any]] = {"plain": {"compiled": False}, "compiled": {}, "fused": {"fused": True}}
BAD = [math.nan, math.inf, -math.inf]


def parameters() -> list[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"weight": (6, 4), "bias": (5,), "scale": (), "empty": (0, 3)}
    return [(name, torch.randn(shape, generator=generator).requires_grad_()) for name, shape in shapes.items()]


def set_gradients(named: list[tuple[str, Tensor]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, param in named:
        param.grad = torch.randn(param.shape, generator=generator)


def corrupt(param: Tensor, value: float) -> None:
    assert param.grad is not None
    param.grad.view(-1)[-1] = value


def values_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [value for param in params for value in optimizer.state[param].values()]
    return [tensor.detach().clone() for tensor in (*params, *states)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("of", [Adafactor, TransformersAdafactor])
@pytest.mark.parametrize(
    ("where", "bad"),
    [
        pytest.param(where, bad, marks=[pytest.mark.slow] * (i != j), id=f"{bad}-{where}")
        for i, where in enumerate(("weight", "bias", "scale"))
        for j, bad in enumerate(BAD)
    ],
)
def test_a_skipped_step_changes_no_bit_and_is_counted(path: str, of: Any, where: str, bad: float) -> None:
    named = parameters()
    optimizer = of(named, on_nonfinite="skip", beta1=0.9, **PATHS[path])
    set_gradients(named, 1)
    optimizer.step()
    before = values_of(optimizer)
    set_gradients(named, 2)
    corrupt(dict(named)[where], bad)
    optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, values_of(optimizer), strict=True))
    assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("path", PATHS)
def test_training_goes_on_after_a_skipped_step_as_if_it_had_not_been(path: str) -> None:
    ours, theirs = parameters(), parameters()
    skipping, plain = Adafactor(ours, on_nonfinite="skip", **PATHS[path]), Adafactor(theirs, **PATHS[path])
    for seed in (1, 2, 3):
        set_gradients(ours, seed)
        if seed == 2:
            corrupt(ours[0][1], math.nan)
        skipping.step()
    for seed in (1, 3):
        set_gradients(theirs, seed)
        plain.step()
    assert all(torch.equal(a, b) for a, b in zip(values_of(skipping), values_of(plain), strict=True))


@pytest.mark.parametrize("path", PATHS)
def test_raise_names_the_parameter_and_the_remedy_and_changes_nothing(path: str) -> None:
    named = parameters()
    optimizer = Adafactor(named, on_nonfinite="raise", **PATHS[path])
    set_gradients(named, 1)
    optimizer.step()
    before = values_of(optimizer)
    corrupt(named[1][1], math.inf)
    with pytest.raises(RuntimeError, match=r"parameter 'bias' is not finite in 1 of 5 elements.*on_nonfinite='skip'"):
        optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, values_of(optimizer), strict=True))


def test_a_parameter_without_a_name_is_named_by_its_number() -> None:
    named = parameters()
    optimizer = Adafactor([param for _, param in named], on_nonfinite="raise")
    set_gradients(named, 1)
    corrupt(named[1][1], math.nan)
    with pytest.raises(RuntimeError, match="parameter 1 is not finite"):
        optimizer.step()


def test_by_default_torchs_numbers_are_computed_and_nothing_is_counted() -> None:
    named = parameters()
    optimizer = Adafactor(named)
    set_gradients(named, 1)
    corrupt(named[0][1], math.nan)
    optimizer.step()
    assert named[0][1].isnan().any()
    assert not named[1][1].isnan().any()
    assert optimizer.skipped_steps is None


def test_a_group_that_ignores_is_not_looked_at() -> None:
    named = parameters()
    groups = [{"params": named[:1], "on_nonfinite": "ignore"}, {"params": named[1:], "on_nonfinite": "skip"}]
    optimizer = Adafactor(groups)
    set_gradients(named, 1)
    corrupt(named[0][1], math.nan)
    optimizer.step()
    assert named[0][1].isnan().any()
    assert optimizer.skipped_steps == 0


def test_a_group_that_skips_leaves_out_the_step_of_all_groups() -> None:
    named = parameters()
    optimizer = Adafactor(
        [{"params": named[:1], "on_nonfinite": "ignore"}, {"params": named[1:], "on_nonfinite": "skip"}]
    )
    set_gradients(named, 1)
    corrupt(named[1][1], math.nan)
    before = [param.detach().clone() for _, param in named]
    optimizer.step()
    assert all(torch.equal(old, param) for old, (_, param) in zip(before, named, strict=True))
    assert optimizer.skipped_steps == 1


def test_a_gradient_of_a_group_that_skips_does_not_raise_where_another_group_does() -> None:
    named = parameters()
    groups = [{"params": named[:1], "on_nonfinite": "skip"}, {"params": named[1:], "on_nonfinite": "raise"}]
    optimizer = Adafactor(groups)
    set_gradients(named, 1)
    corrupt(named[0][1], math.nan)
    optimizer.step()
    assert optimizer.skipped_steps == 1
    corrupt(named[1][1], math.nan)
    with pytest.raises(RuntimeError, match="gradient of parameter 'bias' is not finite in 1 of 5"):
        optimizer.step()


class Arrival:
    """A CUDA event."""

    def __init__(self, arrived: bool) -> None:
        self.arrived, self.waited = arrived, False

    def query(self) -> bool:
        return self.arrived

    def synchronize(self) -> None:
        self.waited = True


def with_answers(*arrivals: Arrival) -> NonfiniteGradients:
    """The state after as many steps, in all of which a gradient was not finite."""
    looked_at = NonfiniteGradients()
    looked_at._steps = len(arrivals)
    looked_at._pending = [(step, arrival, torch.ones(())) for step, arrival in enumerate(arrivals, 1)]  # type: ignore
    return looked_at


def test_one_process_raises_as_soon_as_the_answer_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert with_answers(Arrival(False), Arrival(True)).check([], None) is None
    with pytest.raises(RuntimeError, match="not finite in step 1"):
        with_answers(Arrival(True)).check([], None)


def test_several_processes_raise_in_the_same_later_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for arrived in (True, False):
        looked_at = with_answers(arrival := Arrival(arrived))
        assert looked_at.check([], None) is None
        with pytest.raises(RuntimeError, match="not finite in step 1"):
            looked_at.check([], None)
        assert arrival.waited


def test_no_event_is_asked_in_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert with_answers(Arrival(True)).check([], None) is None


def test_an_overflow_that_the_scaler_knows_of_is_skipped_and_not_raised() -> None:
    named = parameters()
    optimizer = Adafactor(named, on_nonfinite="raise")
    set_gradients(named, 1)
    corrupt(named[0][1], math.inf)
    optimizer.found_inf = torch.ones(1)  # type: ignore[attr-defined]
    before = [param.detach().clone() for _, param in named]
    optimizer.step()
    assert all(torch.equal(old, param) for old, (_, param) in zip(before, named, strict=True))


def test_the_option_is_kept_by_copies_and_saved_states() -> None:
    named = parameters()
    optimizer = Adafactor(named, on_nonfinite="skip")
    assert copy.deepcopy(optimizer).param_groups[0]["on_nonfinite"] == "skip"
    loading = Adafactor(parameters())
    loading.load_state_dict(optimizer.state_dict())
    assert loading.param_groups[0]["on_nonfinite"] == "skip"


def test_another_value_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="on_nonfinite should be 'ignore', 'skip' or 'raise' but is: 'stop'"):
        Adafactor(parameters(), on_nonfinite="stop")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_largest_finite_number_is_finite(dtype: torch.dtype) -> None:
    largest = torch.full((3, 3), torch.finfo(dtype).max, dtype=dtype)
    assert find_nonfinite([largest, torch.empty(0, dtype=dtype)]) == 0
    largest[1, 1] = math.inf
    assert find_nonfinite([torch.zeros(2, dtype=dtype), largest]) == 1


def test_gradients_without_elements_are_finite() -> None:
    assert find_nonfinite([torch.empty(0, 3)]) == 0


def test_steps_are_counted_without_float64_which_some_devices_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    zeros = torch.zeros

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        made.append(kwargs.get("dtype"))
        return zeros(*args, **kwargs)

    monkeypatch.setattr(torch, "zeros", noted)
    named = parameters()
    optimizer = Adafactor(named, on_nonfinite="skip", compiled=False)
    for seed in (1, 2):
        set_gradients(named, seed)
        corrupt(named[0][1], math.nan)
        optimizer.step()
    assert optimizer.skipped_steps == 2
    assert torch.float64 not in made


def test_a_captured_step_does_not_make_the_counter_of_skipped_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    named = parameters()
    set_gradients(named, 1)
    looking = NonfiniteGradients()
    groups = Adafactor(named, on_nonfinite="skip").param_groups
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="take one step, also after load_state_dict, and then capture"):
        looking.check(groups, None)
