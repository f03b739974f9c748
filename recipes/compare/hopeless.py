"""Which runs of a sweep are hopeless: those that at half of their steps are far behind the best ones at a quarter."""

import math
from collections.abc import Sequence

from recipes.compare.metrics import Report, monitor_of, score_of
from recipes.compare.runs import Outcome

QUARTER, HALF = 0.25, 0.5
MARGIN = 0.05
"""How far behind, relative to the best run's value: less is noise where all runs start well, as with a fitted head."""


def watch(finished: Sequence[Outcome]) -> list[str]:
    """The options that let a run stop itself when it is hopeless.

    A run that ends among the best may have begun slowly, as with a high rate: of the finished runs that ended nearly as
    well as the best one, the slowest at a quarter sets the target.

    Args:
        finished: The runs so far of the same optimizer that have a validation metric.

    Returns:
        The options of :class:`recipes.training.hopeless.StopWhenHopeless`; none if one of the best runs has no
        validation between a quarter and half of its steps.
    """
    reports = [outcome.report or {} for outcome in finished]
    best = max(reports, key=score_of, default={})
    monitor = monitor_of(best)
    if monitor is None:
        return []
    name, mode = monitor
    sign = 1 if mode == "max" else -1
    least = score_of(best) - MARGIN * abs(score_of(best))
    early = [_score_at_a_quarter(report, name, sign) for report in reports if score_of(report) >= least]
    if any(map(math.isnan, early)):
        return []
    slowest = min(early)
    target = sign * (slowest - MARGIN * abs(slowest))
    settings = {"metric": name, "mode": mode, "target": repr(target), "after": str(HALF)}
    words = ["--trainer.callbacks+", "recipes.training.hopeless.StopWhenHopeless"]
    return words + [word for name, value in settings.items() for word in (f"--trainer.callbacks.{name}", value)]


def _score_at_a_quarter(report: Report, metric: str, sign: int) -> float:
    steps = report.get("steps") or 0
    for step, metrics in (report.get("history") or {}).get("evaluations") or []:
        if QUARTER * steps <= step < HALF * steps and metrics.get(metric) is not None:
            return sign * float(metrics[metric])
    return math.nan
