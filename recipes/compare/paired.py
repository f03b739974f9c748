"""Paired tests between optimizers, on the same seeds, and what can be concluded from them."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

ALPHA = 0.05
"""Significance level: a difference counts if its adjusted p-value is below."""


def t_test(differences: Sequence[float]) -> float | None:
    """The two-sided p-value of Student's paired t-test.

    Args:
        differences: One for each pair.

    Returns:
        The probability of a mean at least as far from 0 if the differences are normally distributed around 0. None for
        fewer than two, or if one is not finite.
    """
    n = len(differences)
    if n < 2 or not all(map(math.isfinite, differences)):
        return None
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation == 0:
        return 1.0 if mean == 0 else 0.0
    from mpmath import betainc  # type: ignore[import-untyped]

    t_squared = mean * mean * n / (deviation * deviation)
    freedom = n - 1
    return float(betainc(freedom / 2, 0.5, 0, freedom / (freedom + t_squared), regularized=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of p-values for their number, in the same order (Scand. J. Statist. 6, 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[place] * (len(p_values) - rank)))
        adjusted[place] = highest
    return adjusted


def compare_pairs(values: Mapping[str, Mapping[int, float]], mode: str) -> list[dict[str, Any]]:
    """Compares every two optimizers on the seeds that both have finished.

    Args:
        values: The metric by optimizer and seed.
        mode: ``max`` if higher is better, ``min`` if lower.

    Returns:
        For each pair with two common seeds or more: ``better`` and ``worse`` by the mean, ``difference`` of the means
        (positive), ``seeds``, ``p`` and ``p_adjusted`` (:func:`holm` over all pairs).
    """
    sign = -1.0 if mode == "min" else 1.0
    found: list[dict[str, Any]] = []
    for one, other in combinations(values, 2):
        seeds = sorted(values[one].keys() & values[other].keys())
        differences = [sign * (values[one][seed] - values[other][seed]) for seed in seeds]
        p = t_test(differences)
        if p is None:
            continue
        mean = statistics.fmean(differences)
        better, worse = (one, other) if mean >= 0 else (other, one)
        found.append({"better": better, "worse": worse, "difference": abs(mean), "seeds": seeds, "p": p})
    for pair, adjusted in zip(found, holm([pair["p"] for pair in found]), strict=True):
        pair["p_adjusted"] = adjusted
    return found


def conclusion(
    values: Mapping[str, Mapping[int, float]],
    metric: str | None,
    mode: str | None,
    pairs: Sequence[Mapping[str, Any]],
    swept: bool,
) -> str:
    """What can and what cannot be concluded about the quality, in one sentence.

    Args:
        values: The metric by optimizer and seed.
        metric: Its name; None if the runs have none.
        mode: ``max`` if higher is better, ``min`` if lower, None if unknown.
        pairs: The result of :func:`compare_pairs`.
        swept: Whether each optimizer has a learning rate from a sweep of its own.
    """
    present = {name: by_seed for name, by_seed in values.items() if by_seed}
    if metric is None or not present:
        return "Nothing can be concluded about quality: no run has a metric."
    rates = "" if swept else ", and with other learning rates they may rank differently"
    if len(present) == 1:
        return f"Nothing can be concluded about {metric}: only {next(iter(present))} has finished{rates}."
    if mode is None:
        return (
            f"Nothing can be concluded about {metric}: whether higher is better is unknown, because the runs do not "
            f"monitor it (checkpoint.monitor and checkpoint.mode){rates}."
        )
    if not pairs:
        return (
            f"Nothing can be concluded about {metric} from one seed: give at least three --seeds; two optimizers "
            f"are compared on the seeds that both finished{rates}."
        )
    sign = -1.0 if mode == "min" else 1.0
    best = max(present, key=lambda name: sign * statistics.fmean(present[name].values()))
    beaten = [
        pair["worse"] for pair in pairs if pair["better"] == best and pair["p_adjusted"] < ALPHA and pair["difference"]
    ]
    level = [name for name in present if name != best and name not in beaten]
    mean = statistics.fmean(present[best].values())
    seeds = len(present[best])
    said = f"{best} has the best mean {metric} ({mean:.4g} over {seeds} {'seed' if seeds == 1 else 'seeds'})"
    test = f"paired t-test, p < {ALPHA} after Holm's adjustment"
    if beaten:
        said += f", better than {_listed(beaten)} ({test})"
    if level:
        said += f"{'; no' if beaten else ', but no'} difference to {_listed(level)} can be concluded"
        said += "" if beaten else f" ({test}, is not reached)"
    return f"{said}{rates}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
