"""Rounds, medians and ratios."""

import time
from collections.abc import Callable

import pytest
import torch

from benchmarks.timing import CopySteps, CpuTimer, CudaTimer, Spread, ratio, time_rounds


class Script:
    """A timer that records the order of steps and returns given seconds."""

    modes = ("wall",)

    def __init__(self) -> None:
        self.log: list[str] = []

    def step(self, name: str) -> Callable[[], None]:
        return lambda: self.log.append(name)

    def __call__(self, step: Callable[[], None]) -> dict[str, float]:
        step()
        return {"wall": float(len(self.log))}


def test_each_candidate_steps_once_per_round_in_changing_order() -> None:
    script = Script()
    started: list[int] = []
    steps = {name: script.step(name) for name in "abcd"}
    rounds = time_rounds(steps, script, repeats=6, warmup=2, before_round=started.append)
    orders = [tuple(script.log[first : first + 4]) for first in range(0, 32, 4)]
    assert started == [-2, -1, 0, 1, 2, 3, 4, 5]
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in orders)
    assert len(set(orders)) > 1
    assert {len(rounds[name]["wall"]) for name in steps} == {6}


def test_warmup_rounds_do_not_count() -> None:
    script = Script()
    rounds = time_rounds({"a": script.step("a")}, script, repeats=2, warmup=3)
    assert rounds == {"a": {"wall": [4.0, 5.0]}}


def test_cpu_timer_measures_the_step_and_not_the_flushing() -> None:
    seconds = CpuTimer()(lambda: time.sleep(0.05))["wall"]
    assert seconds >= 0.05


def test_spread_is_median_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_ratio_cancels_what_slowed_down_a_whole_round() -> None:
    assert ratio([2.0, 20.0, 2.2, 2.0], [1.0, 10.0, 1.1, 1.0]) == pytest.approx(2.0)


def test_copy_counts_bytes_read_and_written() -> None:
    copy = CopySteps(1000, torch.device("cpu"))
    copy()
    assert copy.bytes == 2000
    assert torch.equal(copy._source, copy._target)


@pytest.mark.gpu
def test_events_of_a_queued_step_leave_out_the_time_of_its_launch() -> None:
    timer = CudaTimer()
    values = torch.ones(1000, device="cuda")

    def slow_to_launch() -> None:
        values.add_(1)
        time.sleep(0.02)
        values.add_(1)

    timer(slow_to_launch)
    seconds = timer(slow_to_launch)
    assert seconds["idle"] > 0.02
    assert seconds["host"] > 0.02
    assert seconds["queued"] < 0.01
