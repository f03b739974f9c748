"""One model in one dtype: checks all candidates, measures their memory, then times them together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.candidates import BASELINES, Candidate, Steps
from benchmarks.extra_memory import measure_memory
from benchmarks.launches import Launches, count_launches
from benchmarks.problem import Problem
from benchmarks.reference import WrongNumbersError, check
from benchmarks.shapes import MODELS
from benchmarks.timing import CopySteps, CpuTimer, CudaTimer, Rounds, Spread, ratio, time_rounds

FLOOR_ACCESSES = 3
"""The gradient is read, the parameter is read and written: the least that a step accesses."""

SCRATCH_PER_ELEMENT = 8
"""Bytes: about the most that any of these optimizers takes during a step."""

COPY = "copy of the parameters"


@dataclasses.dataclass(frozen=True)
class Row:
    """Measurements of one candidate.

    Attributes:
        candidate: The candidate.
        error: Largest relative error of an update, against float64.
        state_bytes: Size of ``optimizer.state``.
        extra_bytes: Peak of a step beyond parameters, gradients and state.
        launches: Counts on a CUDA device, None on a CPU.
        seconds: Spread of the time of a step, by mode.
        floors: Median time as a multiple of the floor, by mode.
        ratios: Median of the rounds' quotients by a baseline's time, by mode and baseline.
    """

    candidate: Candidate
    error: float
    state_bytes: int
    extra_bytes: int
    launches: Launches | None
    seconds: dict[str, Spread]
    floors: dict[str, float]
    ratios: dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model in one dtype.

    Attributes:
        model: Key of the model.
        title: Its name.
        dtype: Of parameters and gradients.
        tensors: How many parameters there are.
        elements: How many numbers they hold.
        copy: Time of a copy of the parameters.
        bandwidth: Bytes per second of that copy, read and written.
        floor: Seconds to read gradients and to read and write parameters at that bandwidth.
        modes: The ways in which steps were timed.
        rows: The candidates, in their order.
        left_out: Candidates that were not measured, and why.
        rounds: All single times.
    """

    model: str
    title: str
    dtype: torch.dtype
    tensors: int
    elements: int
    copy: Spread
    bandwidth: float
    floor: float
    modes: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: dict[str, str]
    rounds: Rounds


def bytes_needed(candidates: Sequence[Candidate], model: str, dtype: torch.dtype) -> int:
    """Estimates the memory that a measurement takes: the state of all candidates is held at once.

    Args:
        candidates: The candidates to measure.
        model: Key of the model.
        dtype: Of parameters and gradients.
    """
    elements = sum(torch.Size(shape.size).numel() for shape in MODELS[model].shapes)
    shared = 2 * dtype.itemsize * elements
    copies = 2 * min(dtype.itemsize * elements, 1 << 30)
    state = sum(candidate.state_bytes(elements, dtype) for candidate in candidates)
    return shared + copies + state + SCRATCH_PER_ELEMENT * elements


def measure(
    candidates: Sequence[Candidate],
    model: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    repeats: int,
    warmup: int,
    tell: Callable[[str], None],
) -> Cell:
    """Checks and measures the candidates.

    Args:
        candidates: The candidates to measure.
        model: Key of the model.
        device: Device of the parameters.
        dtype: Of parameters and gradients.
        repeats: How many rounds count.
        warmup: How many rounds come before those.
        tell: Called with a description of the current activity.

    Returns:
        The figures.

    Raises:
        WrongNumbersError: A candidate does not compute its rule.
    """
    left_out: dict[str, str] = {}
    errors = _check_all(candidates, model, device, dtype, left_out, tell)
    present = [candidate for candidate in candidates if candidate.name in errors]

    problem = Problem(MODELS[model], device, dtype)
    memory = {}
    for candidate in present:
        tell(f"memory of {candidate.name}")
        memory[candidate.name] = measure_memory(candidate, problem.parameters)

    started: dict[str, Steps] = {c.name: c.start(problem.parameters) for c in present}
    copy = CopySteps(problem.bytes, device)
    timer = CudaTimer() if device.type == "cuda" else CpuTimer()

    def before_round(number: int) -> None:
        tell("warming up" if number < 0 else f"round {number + 1} of {repeats}")
        problem.touch_other_rows()

    rounds = time_rounds({**started, COPY: copy}, timer, repeats=repeats, warmup=warmup, before_round=before_round)
    launches = {name: count_launches(steps) if device.type == "cuda" else None for name, steps in started.items()}

    copied = Spread.of(rounds[COPY][timer.modes[0]])
    bandwidth = copy.bytes / copied.median
    floor = FLOOR_ACCESSES * problem.bytes / bandwidth
    rows = tuple(_row(candidate, errors, memory, launches, rounds, floor, timer.modes) for candidate in present)
    return Cell(
        model=model,
        title=MODELS[model].title,
        dtype=dtype,
        tensors=len(problem.parameters),
        elements=problem.elements,
        copy=copied,
        bandwidth=bandwidth,
        floor=floor,
        modes=timer.modes,
        rows=rows,
        left_out=left_out,
        rounds=rounds,
    )


def _check_all(
    candidates: Sequence[Candidate],
    model: str,
    device: torch.device,
    dtype: torch.dtype,
    left_out: dict[str, str],
    tell: Callable[[str], None],
) -> dict[str, float]:
    errors = {}
    for candidate in candidates:
        tell(f"checking {candidate.name}")
        try:
            errors[candidate.name] = check(candidate, MODELS[model], device, dtype)
        except WrongNumbersError:
            raise
        except Exception as reason:
            if candidate.ours:
                raise
            # another library's optimizer that cannot step here (no compiler, say) must not stop the others
            left_out[candidate.name] = f"it fails here: {type(reason).__name__}: {_first_line(reason)}"
    return errors


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _row(
    candidate: Candidate,
    errors: dict[str, float],
    memory: dict[str, tuple[int, int]],
    launches: dict[str, Any],
    rounds: Rounds,
    floor: float,
    modes: Sequence[str],
) -> Row:
    times = rounds[candidate.name]
    seconds = {mode: Spread.of(values) for mode, values in times.items()}
    state_bytes, extra_bytes = memory[candidate.name]
    return Row(
        candidate=candidate,
        error=errors[candidate.name],
        state_bytes=state_bytes,
        extra_bytes=extra_bytes,
        launches=launches[candidate.name],
        seconds=seconds,
        floors={mode: seconds[mode].median / floor for mode in modes},
        ratios={
            mode: {name: ratio(times[mode], rounds[name][mode]) for name in BASELINES if name in rounds}
            for mode in modes
        },
    )
