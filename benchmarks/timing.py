"""Timing in rounds: each candidate takes one step per round, in random order, so that disturbances affect all alike."""

from __future__ import annotations

import dataclasses
import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping

import torch

FLUSH_BYTES = 256 << 20
"""Bytes written before each step, so that none of its data is in a cache; an H100's L2 has 50 MiB."""


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median and quartiles of many measurements.

    Attributes:
        median: The median.
        low: The first quartile.
        high: The third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Computes the quartiles of one or more values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(median, low, high)


class CpuTimer:
    """Wall clock of a step on the CPU, caches cold."""

    modes = ("wall",)

    def __init__(self) -> None:
        self._flush = torch.zeros(FLUSH_BYTES, dtype=torch.uint8)

    def __call__(self, step: Callable[[], None]) -> dict[str, float]:
        """Takes a step and returns its seconds."""
        self._flush.add_(1)
        begin = time.perf_counter()
        step()
        return {"wall": time.perf_counter() - begin}


class CudaTimer:
    """Device events around a step, L2 cold, in two modes.

    ``queued``: the device is kept busy until the step has been launched, as by a backward pass that is still
    running. This is the device's own time, with the gaps that a step forces by waiting for results. (The
    queue holds about a thousand launches; of a step with more, the rest is launched while those run.)

    ``idle``: the device has nothing to do before the step, as after ``loss.item()``. This includes launching.

    ``host``: how long the call of the step takes to return in the latter mode.
    """

    modes = ("queued", "idle")

    def __init__(self) -> None:
        size = max(FLUSH_BYTES, 2 * torch.cuda.get_device_properties().L2_cache_size)
        self._flush = torch.zeros(size, dtype=torch.uint8, device="cuda")
        self._wait(1_000_000)
        self._cycles_per_second = 1e8 / self._between_events(lambda: self._wait(100_000_000))

    def __call__(self, step: Callable[[], None]) -> dict[str, float]:
        """Takes a step in each mode and returns the seconds."""
        self._flush.zero_()
        torch.cuda.synchronize()
        host = 0.0

        def launch() -> None:
            nonlocal host
            begin = time.perf_counter()
            step()
            host = time.perf_counter() - begin

        idle = self._between_events(launch)
        self._flush.zero_()
        torch.cuda.synchronize()
        self._wait(int((2 * host + 1e-3) * self._cycles_per_second))
        return {"queued": self._between_events(step), "idle": idle, "host": host}

    @staticmethod
    def _wait(cycles: int) -> None:
        torch.cuda._sleep(cycles)

    @staticmethod
    def _between_events(work: Callable[[], None]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


Timer = CpuTimer | CudaTimer
Rounds = dict[str, dict[str, list[float]]]
"""Seconds by candidate, mode and round."""


def time_rounds(
    steps: Mapping[str, Callable[[], None]],
    timer: Timer,
    *,
    repeats: int,
    warmup: int,
    before_round: Callable[[int], None] = lambda _: None,
) -> Rounds:
    """Times each candidate once in each round.

    Args:
        steps: Functions that take one step, by name.
        timer: The clock.
        repeats: How many rounds count.
        warmup: How many rounds come before those.
        before_round: Called before each round with its number, which is negative while warming up.

    Returns:
        The seconds of all rounds that count.
    """
    rounds: Rounds = {name: {} for name in steps}
    order = random.Random(0)
    names = list(steps)
    collects = gc.isenabled()
    gc.disable()
    try:
        for number in range(-warmup, repeats):
            before_round(number)
            gc.collect()
            order.shuffle(names)
            for name in names:
                for mode, seconds in timer(steps[name]).items():
                    if number >= 0:
                        rounds[name].setdefault(mode, []).append(seconds)
    finally:
        if collects:
            gc.enable()
    return rounds


def ratio(seconds: list[float], baseline: list[float]) -> float:
    """The median of the ratios within rounds: what slows down a whole round cancels out."""
    return statistics.median(own / other for own, other in zip(seconds, baseline, strict=True))


class CopySteps:
    """A copy as large as all parameters, timed among the candidates, to measure the memory's bandwidth.

    Args:
        total: The parameters' bytes.
        device: Device of the memory.

    Attributes:
        bytes: How many bytes a copy reads and writes; at most 1 GiB is copied.
    """

    def __init__(self, total: int, device: torch.device) -> None:
        size = min(total, 1 << 30)
        self._source = torch.zeros(size, dtype=torch.uint8, device=device).random_()
        self._target = torch.zeros_like(self._source)
        self.bytes = 2 * size

    def __call__(self) -> None:
        """Copies."""
        self._target.copy_(self._source)
