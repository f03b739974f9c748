"""Kernels, copies and waits of a step on a GPU."""

import pytest
import torch

from benchmarks.launches import Launches, count_launches


@pytest.mark.gpu
def test_kernels_copies_and_waits_are_counted_apart() -> None:
    values = torch.ones(1000, device="cuda")
    on_host = torch.ones(1000).pin_memory()

    def step() -> None:
        values.add_(1)
        values.mul_(2)
        values.copy_(on_host, non_blocking=True)
        values[0].item()  # copies, and waits

    step()
    assert count_launches(step) == Launches(kernels=2, copies=2, syncs=1)


@pytest.mark.gpu
def test_annotation_of_an_optimizer_step_is_not_taken_for_a_kernel() -> None:
    parameter = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.SGD([parameter], lr=0.1, foreach=False)
    optimizer.step()
    assert count_launches(optimizer.step) == Launches(kernels=1, copies=0, syncs=0)
