"""Whether two runs have the same results: by fingerprint, else metric by metric and step by step."""

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.runs.fingerprint import METRICS, metrics_sha256

Metrics = dict[tuple[int, str], float]


@dataclass(frozen=True)
class Verdict:
    """The result of comparing two runs.

    Attributes:
        same: Whether they are identical, or equal within the tolerance.
        message: The verdict in one sentence.
    """

    same: bool
    message: str


def compare(
    first: Path, first_report: Mapping[str, Any], second: Path, second_report: Mapping[str, Any], tolerance: float
) -> Verdict:
    """Compares two runs of the same settings.

    Args:
        first: The folder of the recorded run. If its ``metrics.csv`` is missing or has changed, the curves in the
            report are used.
        first_report: Its report.
        second: The folder of the other run.
        second_report: Its report.
        tolerance: Largest relative difference of two metrics that count as equal.
    """
    recorded, again = first_report["fingerprint"], second_report["fingerprint"]
    if all(recorded.get(part) == again[part] for part in ("weights", "metrics")):
        return Verdict(True, f"identical: weights {again['weights'][:12]}..., metrics {_digest(again['metrics'])}")
    parts = [part for part in ("initial_weights", "weights", "metrics") if recorded.get(part) != again[part]]
    bits = f"not the same bits ({', '.join(part.replace('_', ' ') for part in parts)})"
    if (
        metrics_sha256(first) == recorded.get("metrics")
        and (first / METRICS).is_file()
        and (second / METRICS).is_file()
    ):
        before, now = read_metrics(first / METRICS), read_metrics(second / METRICS)
    else:
        before, now = curves(first_report), curves(second_report)
    if before.keys() != now.keys():
        step, name = min(before.keys() ^ now.keys())
        which = "the recorded run" if (step, name) in before else "the new run"
        return Verdict(False, f"different: {bits}; only {which} has {name} of step {step}")
    apart = {place: relative_difference(value, now[place]) for place, value in before.items()}
    worst = max(apart.values(), default=0.0)
    beyond = sorted(place for place, difference in apart.items() if difference > tolerance)
    if not beyond:
        return Verdict(
            True,
            f"equal within {tolerance:g}: {bits}; the largest relative difference of a metric is {worst:.1e}",
        )
    step, name = beyond[0]
    return Verdict(
        False,
        f"different from step {step}: {bits}; {name} was {before[step, name]:.6g} and is {now[step, name]:.6g}; "
        f"{len(beyond)} of {len(apart)} metrics differ by more than {tolerance:g}, by up to {worst:.1e}",
    )


def relative_difference(a: float, b: float) -> float:
    """|a - b| / max(|a|, |b|); 0 for two NaN, infinite if only one of them is finite."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b))


def read_metrics(file: Path) -> Metrics:
    """A ``metrics.csv`` as ``{(step, metric): value}``."""
    with file.open(encoding="utf-8", newline="") as lines:
        return {
            (int(row["step"]), name): float(value)
            for row in csv.DictReader(lines)
            for name, value in row.items()
            if value and name not in ("step", "epoch")
        }


def curves(report: Mapping[str, Any]) -> Metrics:
    """The curves of a report as ``{(step, metric): value}``; NaN for null, which stands for what is not finite."""
    return {place: math.nan if value is None else value for place, value in _points(report)}


def _points(report: Mapping[str, Any]) -> Iterator[tuple[tuple[int, str], float | None]]:
    for step, loss, _ in report["history"]["losses"]:
        yield (step, "train/loss"), loss
    for step, metrics in report["history"]["evaluations"]:
        for name, value in metrics.items():
            yield (step, name), value
    for name, value in report["metrics"].items():
        if name.startswith("test/"):
            yield (report["steps"], name), value


def _digest(digest: str | None) -> str:
    return f"{digest[:12]}..." if digest else "none logged"
