"""The curves of a run against seconds of training: its loss, and its validation metric."""

from itertools import pairwise
from typing import Any

from recipes.compare.metrics import Report, monitor_of

Curve = list[tuple[float, float]]


def quality_curve(report: Report, seconds_per_step: float | None) -> Curve:
    """The monitored validation metric against seconds of training, without validations.

    Args:
        report: The run's report.
        seconds_per_step: The time of a step, as measured in the timing runs; None: the times of the run itself.

    Returns:
        ``(seconds, value)`` for each validation; empty if there is none.
    """
    monitor = monitor_of(report)
    if monitor is None:
        return []
    clock = _Clock(report, seconds_per_step)
    return [
        (round(clock.seconds(step), 3), metrics[monitor[0]])
        for step, metrics in _history(report).get("evaluations") or []
        if metrics.get(monitor[0]) is not None
    ]


def loss_curve(report: Report, points: int) -> Curve:
    """The training loss against seconds of training, averaged over neighboring entries to about ``points``."""
    entries = [entry for entry in _history(report).get("losses") or [] if len(entry) == 3 and None not in entry]
    size = max(len(entries) // points, 1)
    parts = [entries[start : start + size] for start in range(0, len(entries), size)]
    return [
        (sum(entry[2] for entry in part) / len(part), sum(entry[1] for entry in part) / len(part)) for part in parts
    ]


def _history(report: Report) -> dict[str, Any]:
    return report.get("history") or {}


class _Clock:
    """Seconds of training at a step: measured ones, or those between the run's own entries."""

    def __init__(self, report: Report, seconds_per_step: float | None) -> None:
        self.each = seconds_per_step
        self.marks = [(0, 0.0), *((entry[0], entry[2]) for entry in _history(report).get("losses") or [])]

    def seconds(self, step: int) -> float:
        if self.each:
            return self.each * step
        for (step_before, before), (step_after, after) in pairwise(self.marks):
            if step <= step_after:
                return before + (after - before) * (step - step_before) / (step_after - step_before)
        return self.marks[-1][1]
