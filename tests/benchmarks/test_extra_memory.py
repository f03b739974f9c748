"""The memory that a step takes beyond parameters, gradients and state."""

import pytest
import torch

from benchmarks.candidates import all_candidates, chosen
from benchmarks.extra_memory import measure_memory, peak_on_cpu
from benchmarks.problem import Problem
from benchmarks.shapes import MODELS

MIB = 2**20


def nothing() -> None:
    """Allocates nothing."""


def test_temporaries_that_live_together_add_up_and_others_do_not() -> None:
    values = torch.ones(MIB // 4)

    def work() -> None:
        double = values * 2  # 1 MiB
        more = double + 1  # 2 MiB
        del double
        again = more * values  # 2 MiB
        del more, again
        values.add_(1)

    assert peak_on_cpu(nothing, work) == pytest.approx(2 * MIB, abs=100)


def test_buffers_inside_of_a_composite_operation_are_counted() -> None:
    values = torch.ones(512, 512)
    variance = peak_on_cpu(nothing, lambda: torch.linalg.matrix_norm(values, ord=2))
    assert variance >= MIB  # the decomposition works on a copy


def test_what_stays_from_before_counts_and_what_was_freed_does_not() -> None:
    kept: list[torch.Tensor] = []

    def first() -> None:
        torch.empty(8 * MIB, dtype=torch.uint8).fill_(1)
        kept.append(torch.empty(3 * MIB, dtype=torch.uint8))

    def later() -> None:
        kept[0][:MIB].clone()

    assert peak_on_cpu(first, later) == pytest.approx(4 * MIB, abs=100)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem(MODELS["tiny"], torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("name", "moments", "extra"),
    [
        ("adamw-fused", 2.0, (0.0, 0.01)),  # all in registers
        ("adamw-foreach", 2.0, (1.0, 1.1)),  # the denominators of all parameters
        ("adamw", 2.0, (0.4, 1.0)),  # those of the largest one
        ("torch-adafactor-foreach", 0.02, (1.0, 2.5)),
    ],
)
def test_known_optimizers_take_the_memory_that_their_code_implies(
    problem: Problem, name: str, moments: float, extra: tuple[float, float]
) -> None:
    (candidate,) = chosen(all_candidates(torch.device("cpu")), [name])
    state_bytes, extra_bytes = measure_memory(candidate, problem.parameters)
    assert state_bytes / problem.bytes == pytest.approx(moments, rel=0.1)
    assert extra[0] <= extra_bytes / problem.bytes <= extra[1]


@pytest.mark.gpu
def test_peak_on_cuda_counts_temporaries_and_not_the_state() -> None:
    parameter = torch.nn.Parameter(torch.ones(1024, 1024, device="cuda"))
    parameter.grad = torch.ones_like(parameter)
    (candidate,) = chosen(all_candidates(parameter.device), ["adamw-fused"])
    state_bytes, extra_bytes = measure_memory(candidate, [parameter])
    assert state_bytes == 8 * MIB + 4
    assert extra_bytes < MIB
