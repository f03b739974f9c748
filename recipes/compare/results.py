"""The results of a comparison: one row for each optimizer, and remarks on how reliable they are.

Everything is read from the runs' ``report.json``, whatever the task. Learning rates are chosen by validation metrics
only, and nothing is ranked by test metrics.
"""

import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recipes.cli.optimizer_files import Choice
from recipes.compare.curves import quality_curve
from recipes.compare.metrics import (
    Report,
    main_quality,
    mode_of_quality,
    monitor_of,
    quality_names,
    score_of,
    value_of,
)
from recipes.compare.paired import compare_pairs, conclusion
from recipes.compare.plan import Plan
from recipes.compare.remarks import remarks
from recipes.compare.runs import Outcome
from recipes.runs.changed_assets import changed_assets


def best_of(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The outcome with the best validation metric, the first of equal ones; None if no run has one."""
    return max(with_score(outcomes), key=lambda outcome: score_of(outcome.report or {}), default=None)


def with_score(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes that have a finite validation metric."""
    return [each for each in outcomes if each.report is not None and not math.isnan(score_of(each.report))]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, mean, sample standard deviation (null for one value, or an infinite one), min, max, number of values."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None,
        "min": min(values),
        "max": max(values),
        "n": len(values),
        "values": list(values),
    }


def comparison(plan: Plan, outcomes: Sequence[Outcome], rates: dict[str, float | None], command: str) -> dict[str, Any]:
    """The content of ``comparison.json``.

    Args:
        plan: The comparison.
        outcomes: The runs that have ended, successfully or not.
        rates: The chosen learning rate of each optimizer, by name, without optimizers that have none.
        command: The command line.
    """
    trainings = [outcome for outcome in outcomes if outcome.trial.timing is None]
    reports = [outcome.report for outcome in trainings if outcome.report is not None]
    names = quality_names(reports)
    main = main_quality(reports)
    mode = mode_of_quality(main, reports)
    rows = [
        _row(plan, choice, [o for o in outcomes if o.trial.choice is choice], rates, names) for choice in plan.choices
    ]
    monitors = [monitor for monitor in map(monitor_of, reports) if monitor]
    result: dict[str, Any] = {
        "recipe": plan.name,
        "command": command,
        "seeds": list(plan.seeds),
        "swept": bool(plan.sweep),
        "monitor": {"name": monitors[0][0], "mode": monitors[0][1]} if monitors else None,
        "quality": names,
        "main_quality": main,
        "main_quality_mode": mode,
        "budget": plan.budget and {plan.budget.unit: plan.budget.number},
        "optimizers": rows,
        "same_initial_weights": _same_initial_weights(trainings),
        "device": _common(reports, "device"),
        "peak_memory_is": "CUDA tensors" if _on_cuda(reports) else "resident memory of the process",
        "machine": {"system": platform.platform(), "processors": os.cpu_count(), "memory_gb": _memory_gb()},
        "versions": _common(reports, "versions"),
        "git_commit": _common(reports, "git_commit"),
        **{
            key: _common([report.get("provenance") or {} for report in reports], key)
            for key in ("code_sha256", "assets")
        },
        "settings": {
            "recipe": [str(file) for file in _shown_paths([config.path for config in plan.configs])],
            "options": plan.options,
        },
    }
    by_seed = {row["name"]: _by_seed(row, main) for row in rows}
    result["pairs"] = compare_pairs(by_seed, mode) if mode else []
    result["conclusion"] = conclusion(by_seed, main, mode, result["pairs"], bool(plan.sweep))
    result["changed_since"] = _changed_since(outcomes)
    result["remarks"] = remarks(result, plan)
    return result


def _changed_since(outcomes: Iterable[Outcome]) -> list[str]:
    """What has changed of the data and weights since the runs that were finished before."""
    kept = [outcome.report.get("provenance") or {} for outcome in outcomes if outcome.kept and outcome.report]
    different: list[dict[str, str]] = []
    for provenance in kept:
        if (assets := provenance.get("assets")) and assets not in different:
            different.append(assets)
    return list(dict.fromkeys(change for assets in different for change in changed_assets(assets)))


def _by_seed(row: dict[str, Any], metric: str | None) -> dict[int, float]:
    """A metric of the runs with an optimizer's chosen learning rate, by seed."""
    counted = [run for run in row["runs"] if run["counts"]]
    return {run["seed"]: value for run in counted if metric and (value := value_of(run, metric)) is not None}


def _row(
    plan: Plan, choice: Choice, outcomes: Sequence[Outcome], rates: dict[str, float | None], names: Sequence[str]
) -> dict[str, Any]:
    chosen = choice.name in rates
    rate = rates.get(choice.name)
    trainings = [outcome for outcome in outcomes if outcome.trial.timing is None]
    timed = [outcome for outcome in outcomes if outcome.trial.timing is not None]
    timing = _timing(timed)
    counted = [o for o in trainings if chosen and o.trial.rate == rate and o.report is not None]
    reports = [outcome.report for outcome in counted if outcome.report is not None]
    first = reports[0] if reports else {}
    validation = [name for report in reports for name in report["metrics"] if name.startswith("val/")]
    metrics = {
        name: [value for report in reports if (value := value_of(report, name)) is not None]
        for name in dict.fromkeys([*validation, *names])
    }
    return {
        "name": choice.name,
        "class": choice.class_path,
        "lr": rate,
        "settings": choice.settings,
        "sweep": _sweep(plan, choice, trainings, rate if chosen else None) if plan.sweep else None,
        "optimizer_state": first.get("optimizer_state"),
        "total_state": first.get("total_state"),
        "adamw_state": first.get("adamw_state"),
        "parameter_memory": first.get("parameter_memory"),
        "gradient_memory": first.get("gradient_memory"),
        "timing": timing,
        "failed_timing": list(dict.fromkeys(outcome.reason for outcome in timed if outcome.report is None)),
        "peak_memory_mb": timing["peak_memory_mb"] if timing else _most(reports, "peak_memory_mb"),
        "seconds_per_step": timing["seconds_per_step"] if timing else _median(reports, "seconds_per_step"),
        "seconds": _median([report.get("seconds") or {} for report in reports], "train"),
        "steps": first.get("steps"),
        "metrics": {name: spread(values) for name, values in metrics.items() if values},
        "curves": {
            str(outcome.trial.seed): quality_curve(outcome.report, timing["seconds_per_step"] if timing else None)
            for outcome in counted
            if outcome.report is not None
        },
        "runs": [_run(plan, outcome, outcome in counted) for outcome in trainings],
    }


def _timing(outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """Time and memory of the timing runs: medians over the runs, the largest peak; None if none has finished."""
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    if not reports:
        return None
    return {
        "seconds_per_step": _median(reports, "seconds_per_step"),
        "each_seconds_per_step": [report.get("seconds_per_step") for report in reports],
        "peak_memory_mb": _most(reports, "peak_memory_mb"),
        "other_cores": [outcome.other_cores for outcome in outcomes if outcome.report is not None],
    }


def _run(plan: Plan, outcome: Outcome, counts: bool) -> dict[str, Any]:
    report = outcome.report or {}
    return {
        "lr": outcome.trial.rate,
        "seed": outcome.trial.seed,
        "counts": counts,
        "finished": outcome.report is not None,
        "hopeless": outcome.is_hopeless,
        "reason": outcome.reason or _without_score(outcome.report),
        "folder": os.path.relpath(outcome.folder, plan.out),
        "steps": report.get("steps"),
        "wall_seconds": None if outcome.seconds is None else round(outcome.seconds, 1),
        "other_cores": outcome.other_cores,
        "metrics": report.get("metrics") or {},
        "peak_memory_mb": report.get("peak_memory_mb"),
        "seconds_per_step": report.get("seconds_per_step"),
        "initial_weights": (report.get("fingerprint") or {}).get("initial_weights"),
    }


def _without_score(report: Report | None) -> str:
    """Why a run that finished has no score; empty if it has one, or none of its kind has."""
    monitor = monitor_of(report) if report is not None else None
    if report is None or monitor is None or not math.isnan(score_of(report)):
        return ""
    return f"{monitor[0]} is NaN or infinite"


def _sweep(plan: Plan, choice: Choice, outcomes: Sequence[Outcome], rate: float | None) -> list[dict[str, Any]]:
    """For each learning rate, in ascending order: the validation metric with the first seed, or why there is none."""
    by_rate = {outcome.trial.rate: outcome for outcome in outcomes if outcome.trial.seed == plan.seeds[0]}
    planned = [each for each in plan.rates(choice) if each not in by_rate]
    tried = []
    for each in sorted([*by_rate, *planned], key=lambda value: value or 0.0):
        outcome = by_rate.get(each)
        report = outcome.report if outcome else None
        monitor = monitor_of(report) if report else None
        tried.append(
            {
                "lr": each,
                "value": report["metrics"][monitor[0]] if report and monitor else None,
                "chosen": each == rate,
                "reason": outcome.reason or _without_score(outcome.report) if outcome else "not run",
            }
        )
    return tried


def _same_initial_weights(outcomes: Sequence[Outcome]) -> dict[str, bool | None]:
    """For each seed whether all its runs started from the same weights; None if a report does not say."""
    found: dict[str, set[str | None]] = {}
    for outcome in outcomes:
        if outcome.report is not None:
            weights = (outcome.report.get("fingerprint") or {}).get("initial_weights")
            found.setdefault(str(outcome.trial.seed), set()).add(weights)
    return {
        seed: False if len(known - {None}) > 1 else None if None in known else True for seed, known in found.items()
    }


def _common(reports: Sequence[Report], key: str) -> Any:
    """The value that all reports share; a list of the values if they differ."""
    values: list[Any] = []
    for report in reports:
        if report.get(key) not in values:
            values.append(report.get(key))
    return values[0] if len(values) == 1 else (values or None)


def _on_cuda(reports: Sequence[Report]) -> bool:
    machines = [(report.get("provenance") or {}).get("machine") or {} for report in reports]
    return any(machine.get("cuda") and machine.get("accelerator") for machine in machines)


def _most(reports: Sequence[Report], key: str) -> float | None:
    return max((report[key] for report in reports if report.get(key) is not None), default=None)


def _median(reports: Sequence[Report], key: str) -> float | None:
    values = [report[key] for report in reports if report.get(key) is not None]
    return statistics.median(values) if values else None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _shown_paths(files: Sequence[Path]) -> list[str]:
    """Paths relative to the working folder; only the names of files outside it."""
    shown = []
    for file in files:
        try:
            shown.append(file.resolve().relative_to(Path.cwd()).as_posix())
        except ValueError:
            shown.append(file.name)
    return shown
