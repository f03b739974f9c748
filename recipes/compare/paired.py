"""Paired tests between optimizers, on the same seeds, and what can be concluded from them."""

import functools
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
        fewer than two, if one is not finite, or if they are equal, as those of coarse metrics may be by chance.
    """
    n = len(differences)
    if n < 2 or not all(map(math.isfinite, differences)):
        return None
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation == 0:
        return None
    t_squared = mean * mean * n / (deviation * deviation)
    return _two_sided((n - 1) / (n - 1 + t_squared), n - 1)


def _two_sided(x: float, freedom: int) -> float:
    """The two-sided p-value of a t with x = freedom / (freedom + t²)."""
    from mpmath import betainc  # type: ignore[import-untyped]

    return float(betainc(freedom / 2, 0.5, 0, x, regularized=True))


@functools.cache
def critical_t(p: float, freedom: int) -> float:
    """The t whose two-sided p-value in Student's distribution is ``p``.

    Args:
        p: Between 0 and 1.
        freedom: The degrees of freedom.
    """
    low, high = 0.0, 1.0
    for _ in range(80):  # the p-value grows with x
        middle = (low + high) / 2
        low, high = (middle, high) if _two_sided(middle, freedom) < p else (low, middle)
    return math.sqrt(freedom * (1 - high) / high)


def detectable(pairs: Sequence[Mapping[str, Any]]) -> float | None:
    """The difference that the median pair would have needed for the first comparison with Holm's adjustment.

    Args:
        pairs: The result of :func:`compare_pairs`.

    Returns:
        The difference of the means at which p reaches :data:`ALPHA` divided by the number of pairs. None without pairs.
    """
    needed = [pair["standard_error"] * critical_t(ALPHA / len(pairs), len(pair["seeds"]) - 1) for pair in pairs]
    return statistics.median(needed) if needed else None


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
        (positive), its ``standard_error`` and ``interval`` (95 % confidence, not adjusted for the number of pairs),
        ``seeds``, ``p`` and ``p_adjusted`` (:func:`holm` over all pairs).
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
        error = statistics.stdev(differences) / math.sqrt(len(seeds))
        margin = critical_t(ALPHA, len(seeds) - 1) * error
        found.append(
            {
                "better": better,
                "worse": worse,
                "difference": abs(mean),
                "standard_error": error,
                "interval": [abs(mean) - margin, abs(mean) + margin],
                "seeds": seeds,
                "p": p,
            }
        )
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
    others = [
        f"{pair['better']} is better than {pair['worse']}"
        for pair in pairs
        if pair["better"] != best and pair["p_adjusted"] < ALPHA
    ]
    said += "".join(f"; {each}" for each in others)
    every = set().union(*present.values())
    fewer = [
        f"; {name} has results for {len(seeds)} of {len(every)} seeds only"
        for name, seeds in present.items()
        if seeds.keys() < every
    ]
    said += "".join(fewer)
    return f"{said}{rates}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
