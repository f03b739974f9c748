"""The memory that a step takes beyond parameters, gradients and state, at its peak."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch
from torch.autograd import profiler

from benchmarks.candidates import Candidate, Steps
from lightning_adafactor import measure_state

_FIRST, _LATER = "first step", "later steps"


def measure_memory(candidate: Candidate, parameters: Sequence[torch.nn.Parameter]) -> tuple[int, int]:
    """Constructs an optimizer, takes three steps, and follows every allocation of tensors.

    What the optimizer keeps from step to step outside its state (a workspace, the memory of a CUDA graph)
    counts as extra. What only its first step needs does not.

    Args:
        candidate: The optimizer.
        parameters: Its parameters, with gradients, all on one device.

    Returns:
        Bytes of the state, and the peak of extra bytes in the second and third step.
    """
    gc.collect()
    measure = peak_on_cuda if parameters[0].is_cuda else peak_on_cpu
    steps: list[Steps] = []

    def first() -> None:
        steps.append(candidate.start(parameters))
        steps[0]()

    def later() -> None:
        steps[0]()
        steps[0]()

    peak = measure(first, later)
    state = measure_state(steps[0].optimizer.state.values()).bytes
    return state, max(0, peak - state)


def peak_on_cpu(first: Callable[[], None], later: Callable[[], None]) -> int:
    """Measures with the profiler, which sees each allocation, those inside of torch's operations too.

    Args:
        first: Called first; what it leaves allocated counts.
        later: Called next; its peak is measured.

    Returns:
        The largest sum of bytes that were allocated since the start of ``first`` and alive in ``later``.
    """
    with profiler.profile(profile_memory=True) as profile:
        with profiler.record_function(_FIRST):
            first()
        with profiler.record_function(_LATER):
            later()
    assert profile.kineto_results is not None
    events = profile.kineto_results.events()
    begin = next(event.start_ns() for event in events if event.name() == _LATER)
    allocated = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda event: event.start_ns()):
        if event.start_ns() >= begin:
            peak = max(peak, allocated)
        allocated += event.nbytes()
    return max(peak, allocated)


def peak_on_cuda(first: Callable[[], None], later: Callable[[], None]) -> int:
    """Reads the same from the allocator of the CUDA device.

    Args:
        first: Called first; what it leaves allocated counts.
        later: Called next; its peak is measured.
    """
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    first()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    later()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
