"""Which metric a comparison shows, chooses by and calls better: known from the reports alone, whatever the task."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from recipes.runs.metric_mode import mode_of

Report = dict[str, Any]

SHOWN_FIRST = ("accuracy", "f1", "perplexity")


def value_of(report: Report, metric: str) -> float | None:
    """A metric of a run; None if it has none, or if it was NaN or infinite, which a report holds as null."""
    value = (report.get("metrics") or {}).get(metric)
    return value if value is not None and math.isfinite(value) else None


def monitor_of(report: Report) -> tuple[str, str] | None:
    """The validation metric that chose a run's best checkpoint, and its mode; None without validation."""
    monitor = report.get("monitor") or {}
    metrics = report.get("metrics") or {}
    name = monitor.get("name")
    if isinstance(name, str) and name in metrics:
        return name, monitor.get("mode") or mode_of(name) or "min"
    stem = [f"val/{word}" for word in ("f1", "accuracy", "perplexity", "loss")]
    found = next((name for name in stem if name in metrics), None)
    return (found, mode_of(found) or "min") if found else None


def score_of(report: Report) -> float:
    """The monitored validation metric, negated if lower is better; NaN without one, or without a finite value."""
    monitor = monitor_of(report)
    if monitor is None:
        return math.nan
    name, mode = monitor
    value = value_of(report, name)
    if value is None:
        return math.nan
    return value if mode == "max" else -value


def quality_names(reports: Iterable[Report]) -> list[str]:
    """The metrics to show: those of the test, else of the validation; the loss only if there is no other."""
    names = list(dict.fromkeys(name for report in reports for name in report.get("metrics") or {}))
    stage = "test/" if any(name.startswith("test/") for name in names) else "val/"
    names = [name for name in names if name.startswith(stage)]
    without_loss = [name for name in names if name != f"{stage}loss"]
    order = {f"{stage}{word}": place for place, word in enumerate(SHOWN_FIRST)}
    return sorted(without_loss or names, key=lambda name: order.get(name, len(order)))


def main_quality(reports: Sequence[Report]) -> str | None:
    """The metric of quality in the chart: the monitored metric on the shown split, else the first one shown.

    Perplexity takes the place of the loss that it is computed from.
    """
    names = quality_names(reports)
    by_stem = {name.partition("/")[2]: name for name in names}
    for report in reports:
        monitor = monitor_of(report)
        stem = monitor[0].partition("/")[2] if monitor else ""
        for wanted in (stem, "perplexity" if stem == "loss" else ""):
            if wanted in by_stem:
                return by_stem[wanted]
    return names[0] if names else None


def mode_of_quality(metric: str | None, reports: Sequence[Report]) -> str | None:
    """Whether a metric of quality is better when higher: as the runs monitor it, else by its name; None if unknown."""
    if metric is None:
        return None
    for report in reports:
        monitor = monitor_of(report)
        if monitor is not None and monitor[0].partition("/")[2] == metric.partition("/")[2]:
            return monitor[1]
    return mode_of(metric)
