"""The learning rates of a sweep: what is tried first, and what is added."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.compare.sweep import beyond, from_the_middle


def test_the_middle_rate_is_tried_first() -> None:
    assert from_the_middle([1e-4, 1e-3, 3e-4]) == [3e-4, 1e-4, 1e-3]
    assert from_the_middle([4.0, 2.0, 1.0, 3.0, 4.0]) == [2.0, 3.0, 1.0, 4.0]


@given(st.lists(st.floats(1e-8, 10), min_size=1, max_size=9))
def test_every_rate_is_tried_once(rates: list[float]) -> None:
    assert sorted(from_the_middle(rates)) == sorted(set(rates))


@pytest.mark.parametrize(
    ("best", "tried", "added"),
    [
        (4e-4, [1e-4, 2e-4, 4e-4], 8e-4),
        (1e-4, [1e-4, 2e-4, 4e-4], 5e-5),
        (2e-4, [1e-4, 2e-4, 4e-4], None),
        (1e-4, [1e-4], None),
        (3e-4, [1e-3, 3e-4], 9e-5),
    ],
)
def test_a_rate_is_added_beyond_the_best_one_if_that_is_the_lowest_or_highest(
    best: float, tried: list[float], added: float | None
) -> None:
    assert beyond(best, tried) == added
