"""The curves of a run against seconds of training."""

import pytest

from recipes.compare.curves import loss_curve, quality_curve

REPORT = {
    "metrics": {"val/f1": 0.8},
    "monitor": {"name": "val/f1", "mode": "max"},
    "history": {
        "losses": [[10, 2.0, 10.0], [20, 1.0, 30.0]],
        "evaluations": [[5, {"val/f1": 0.4}], [15, {"val/f1": 0.6}], [20, {"val/f1": None}], [25, {"val/f1": 0.8}]],
    },
}


def test_seconds_are_steps_times_the_measured_time_of_a_step() -> None:
    assert quality_curve(REPORT, 0.5) == [(2.5, 0.4), (7.5, 0.6), (12.5, 0.8)]


def test_without_a_measurement_seconds_are_interpolated_from_the_run_itself() -> None:
    assert quality_curve(REPORT, None) == [(5.0, 0.4), (20.0, 0.6), (30.0, 0.8)]


@pytest.mark.parametrize("report", [{}, {"metrics": {"test/f1": 0.8}}])
def test_a_run_without_validation_has_no_curve(report: dict[str, object]) -> None:
    assert quality_curve(report, 0.5) == []
    assert loss_curve(report, 40) == []


def test_losses_are_averaged_over_neighbors() -> None:
    assert loss_curve(REPORT, 1) == [(20.0, 1.5)]
    assert loss_curve(REPORT, 2) == [(10.0, 2.0), (30.0, 1.0)]
