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
from recipes.compare.plan import Plan, Trial
from recipes.compare.runs import Outcome

Report = dict[str, Any]

LOWER_IS_BETTER = ("loss", "perplexity", "error", "wer", "bits_per_byte")
HIGHER_IS_BETTER = ("accuracy", "f1", "precision", "recall", "auroc", "score", "bleu", "rouge", "matthews")
SHOWN_FIRST = ("accuracy", "f1", "perplexity")


def mode_of(metric: str) -> str | None:
    """``max`` if a metric is better when higher, ``min`` if when lower, by its name; None if unknown."""
    name = metric.rpartition("/")[2].lower()
    for mode, words in (("min", LOWER_IS_BETTER), ("max", HIGHER_IS_BETTER)):
        if any(word in name for word in words):
            return mode
    return None


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
    """The monitored validation metric, negated if lower is better; NaN without one."""
    monitor = monitor_of(report)
    if monitor is None:
        return math.nan
    name, mode = monitor
    value = float(report["metrics"][name])
    return value if mode == "max" else -value


def best_of(outcomes: Iterable[Outcome]) -> Outcome | None:
    """The outcome with the best validation metric, the first of equal ones; None if no run has one."""
    scored = [(score_of(outcome.report), outcome) for outcome in outcomes if outcome.report is not None]
    scored = [(score, outcome) for score, outcome in scored if not math.isnan(score)]
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


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


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (null for one value, or an infinite one), min, max and number of values."""
    return {
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
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    names = quality_names(reports)
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
        "main_quality": main_quality(reports),
        "optimizers": rows,
        "same_initial_weights": _same_initial_weights(outcomes),
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
    result["remarks"] = remarks(result, plan)
    return result


def _row(
    plan: Plan, choice: Choice, outcomes: Sequence[Outcome], rates: dict[str, float | None], names: Sequence[str]
) -> dict[str, Any]:
    chosen = choice.name in rates
    rate = rates.get(choice.name)
    counted = [o for o in outcomes if chosen and o.trial.rate == rate and o.report is not None]
    reports = [outcome.report for outcome in counted if outcome.report is not None]
    first = reports[0] if reports else {}
    metrics = {name: [report["metrics"][name] for report in reports if name in report["metrics"]] for name in names}
    validation = {
        name: [report["metrics"][name] for report in reports if name in report["metrics"]]
        for name in dict.fromkeys(name for report in reports for name in report["metrics"] if name.startswith("val/"))
    }
    return {
        "name": choice.name,
        "class": choice.class_path,
        "lr": rate,
        "settings": choice.settings,
        "sweep": _sweep(plan, choice, outcomes, rate if chosen else None) if plan.sweep else None,
        "optimizer_state": first.get("optimizer_state"),
        "adamw_state": first.get("adamw_state"),
        "parameter_memory": first.get("parameter_memory"),
        "gradient_memory": first.get("gradient_memory"),
        "peak_memory_mb": _most(reports, "peak_memory_mb"),
        "seconds_per_step": _median(reports, "seconds_per_step"),
        "seconds": _median([report.get("seconds") or {} for report in reports], "train"),
        "steps": first.get("steps"),
        "metrics": {name: spread(values) for name, values in {**validation, **metrics}.items() if values},
        "runs": [_run(plan, outcome) for outcome in outcomes],
    }


def _run(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    report = outcome.report or {}
    return {
        "lr": outcome.trial.rate,
        "seed": outcome.trial.seed,
        "finished": outcome.report is not None,
        "reason": outcome.reason,
        "folder": os.path.relpath(outcome.folder, plan.out),
        "wall_seconds": None if outcome.seconds is None else round(outcome.seconds, 1),
        "metrics": report.get("metrics") or {},
        "peak_memory_mb": report.get("peak_memory_mb"),
        "seconds_per_step": report.get("seconds_per_step"),
        "initial_weights": (report.get("fingerprint") or {}).get("initial_weights"),
    }


def _sweep(plan: Plan, choice: Choice, outcomes: Sequence[Outcome], rate: float | None) -> list[dict[str, Any]]:
    """For each learning rate tried: the validation metric with the first seed, or why there is none."""
    tried = []
    for trial in plan.first_trials(choice):
        outcome = next((o for o in outcomes if same(o.trial, trial)), None)
        report = outcome.report if outcome else None
        monitor = monitor_of(report) if report else None
        tried.append(
            {
                "lr": trial.rate,
                "value": report["metrics"][monitor[0]] if report and monitor else None,
                "chosen": trial.rate == rate,
                "reason": outcome.reason if outcome else "not run",
            }
        )
    return tried


def same(one: Trial, other: Trial) -> bool:
    """Whether two trials of a comparison are the same run."""
    return (one.choice.name, one.rate, one.seed) == (other.choice.name, other.rate, other.seed)


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


def remarks(result: dict[str, Any], plan: Plan) -> list[str]:
    """How the comparison was made and how reliable it is, one sentence each, the most severe first."""
    found = []
    same_weights = result["same_initial_weights"]
    different = [seed for seed, known in same_weights.items() if known is False]
    if different:
        found.append(
            f"WARNING: with seed {', '.join(different)} the runs did not start from the same weights: they are not "
            "comparable. A recipe must initialize its weights from the seed alone."
        )
    for key, what in (
        ("device", "devices"),
        ("versions", "versions of the libraries"),
        ("code_sha256", "versions of this repository's code"),
        ("assets", "data or weights"),
    ):
        if isinstance(result[key], list):
            found.append(
                f"WARNING: the runs have different {what}: delete the folders of the old ones to run them again."
            )
    found.append(_about_rates(result, plan))
    found += _at_the_edge(result)
    seeds = ", ".join(map(str, plan.seeds))
    if len(plan.seeds) == 1:
        found.append(f"One seed ({seeds}): differences in quality may be due to chance.")
    else:
        found.append(f"Seeds {seeds}: mean ± standard deviation of the finished runs.")
    if same_weights and all(same_weights.values()):
        found.append(
            "Runs with the same seed started from the same weights (their fingerprints are equal), with the same order "
            "of data."
        )
    elif same_weights and not different:
        found.append(
            "Runs with the same seed have the same order of data; not every report has a fingerprint of its initial "
            "weights."
        )
    return found


def _about_rates(result: dict[str, Any], plan: Plan) -> str:
    if not plan.sweep:
        return (
            "Learning rates were not swept: each optimizer has the one in its file. With other rates the results may "
            "rank differently."
        )
    monitor = result["monitor"]
    by = f"{'highest' if monitor['mode'] == 'max' else 'lowest'} {monitor['name']}" if monitor else "best validation"
    return (
        f"Each optimizer has the learning rate of its own sweep with the {by} (seed {plan.seeds[0]}); test metrics "
        "were not used to choose it."
    )


def _at_the_edge(result: dict[str, Any]) -> list[str]:
    found = []
    for row in result["optimizers"]:
        tried = row["sweep"] or []
        if len(tried) < 2 or row["lr"] is None:
            continue
        for place, word in ((0, "lowest"), (-1, "highest")):
            if tried[place]["chosen"]:
                found.append(f"{row['name']}'s learning rate is the {word} one tried: a rate beyond it may be better.")
    return found


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
