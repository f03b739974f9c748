"""Which runs of a sweep are hopeless: those that at half of their steps are far behind the best one at a quarter."""

from recipes.compare.metrics import Report, monitor_of
from recipes.compare.runs import Outcome

QUARTER, HALF = 0.25, 0.5
MARGIN = 0.05
"""How far behind, relative to the best run's value: less is noise where all runs start well, as with a fitted head."""


def watch(best: Outcome) -> list[str]:
    """The options that let a run stop itself when it is hopeless.

    Args:
        best: The best run so far of the same optimizer.

    Returns:
        The options of :class:`recipes.training.hopeless.StopWhenHopeless`; none if the best run has no validation
        between a quarter and half of its steps.
    """
    report = best.report or {}
    monitor = monitor_of(report)
    target = _value_at_a_quarter(report, monitor[0]) if monitor else None
    if monitor is None or target is None:
        return []
    target += MARGIN * abs(target) * (1 if monitor[1] == "min" else -1)
    settings = {"metric": monitor[0], "mode": monitor[1], "target": repr(target), "after": str(HALF)}
    words = ["--trainer.callbacks+", "recipes.training.hopeless.StopWhenHopeless"]
    return words + [word for name, value in settings.items() for word in (f"--trainer.callbacks.{name}", value)]


def _value_at_a_quarter(report: Report, metric: str) -> float | None:
    steps = report.get("steps") or 0
    for step, metrics in (report.get("history") or {}).get("evaluations") or []:
        if QUARTER * steps <= step < HALF * steps and metrics.get(metric) is not None:
            return float(metrics[metric])
    return None
