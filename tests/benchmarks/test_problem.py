"""Parameters and gradients like those of fine-tuning."""

import pytest
import torch

from benchmarks.problem import Problem
from benchmarks.shapes import Model, Shape

CPU = torch.device("cpu")
MODEL = Model("two", (Shape("table", (1000, 8), lookup=True), Shape("dense", (300, 300))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_have_the_stated_spread_and_dtype(dtype: torch.dtype) -> None:
    _, dense = Problem(MODEL, CPU, dtype).parameters
    assert dense.dtype == dense.grad.dtype == dtype
    assert dense.float().std().item() == pytest.approx(0.02, rel=0.02)
    assert dense.grad.float().std().item() == pytest.approx(1e-4, rel=0.02)


def test_lookup_table_has_gradients_in_at_most_five_percent_of_its_rows() -> None:
    table, dense = Problem(MODEL, CPU, torch.float32).parameters
    assert 40 <= table.grad.any(dim=1).sum() <= 50
    assert dense.grad.any(dim=1).all()


def test_each_batch_touches_other_rows_in_the_same_memory() -> None:
    problem = Problem(MODEL, CPU, torch.float32)
    gradient = problem.parameters[0].grad
    address, before = gradient.data_ptr(), gradient.any(dim=1)
    problem.touch_other_rows()
    after = problem.parameters[0].grad.any(dim=1)
    assert problem.parameters[0].grad.data_ptr() == address
    assert 40 <= after.sum() <= 50
    assert (before & after).sum() < 20


def test_elements_and_bytes_count_all_parameters() -> None:
    problem = Problem(MODEL, CPU, torch.bfloat16)
    assert (problem.elements, problem.bytes) == (98_000, 196_000)
