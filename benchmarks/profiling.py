"""Where the time of a step goes, operation by operation."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.candidates import Candidate
from benchmarks.problem import Problem
from benchmarks.shapes import MODELS

STEPS = 5


def profile_steps(candidate: Candidate, model: str, device: torch.device, dtype: torch.dtype) -> str:
    """Profiles a few warm steps.

    Args:
        candidate: The optimizer.
        model: Key of the model.
        device: Device of the parameters.
        dtype: Of parameters and gradients.

    Returns:
        A table of operations by the time spent in themselves, those of five steps together.
    """
    problem = Problem(MODELS[model], device, dtype)
    steps = candidate.start(problem.parameters)
    for _ in range(3):
        steps()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as recorded:
        for _ in range(STEPS):
            steps()
        if device.type == "cuda":
            torch.cuda.synchronize()
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    text = recorded.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60)
    return f"{candidate.name}, {MODELS[model].title}, {dtype}: {STEPS} steps\n{text}"
