"""What a reader must know about a comparison: how it was made, how reliable it is, what can be concluded."""

from typing import Any

from recipes.compare.hopeless import MARGIN
from recipes.compare.paired import detectable
from recipes.compare.plan import Plan

DISTURBED = 0.1
"""CPU cores that other programs may use during a timing run."""


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
    found += [
        f"WARNING: {change}: it has changed since runs that were kept; delete their folders to run them again."
        for change in result["changed_since"]
    ]
    found.append(result["conclusion"])
    found += _power(result)
    found += _disturbed(result, plan)
    found += _not_timed(result)
    found.append(_about_rates(result, plan))
    found += _at_the_edge(result)
    found += _hopeless(result)
    seeds = ", ".join(map(str, plan.seeds))
    if len(plan.seeds) == 1:
        found.append(f"One seed ({seeds}): differences in quality may be due to chance.")
    else:
        found.append(f"Seeds {seeds}: median of the finished runs, and the lowest and highest value.")
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


def _power(result: dict[str, Any]) -> list[str]:
    """How large a difference would have to be."""
    needed = detectable(result["pairs"])
    if needed is None:
        return []
    pairs, seeds = len(result["pairs"]), max(len(pair["seeds"]) for pair in result["pairs"])
    return [
        f"With {seeds} seeds and {pairs} {'pair' if pairs == 1 else 'pairs'}, a difference in {result['main_quality']} "
        f"of about {needed:.2g} is needed for a conclusion (median of the pairs): smaller ones may exist."
    ]


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
        finished = [each for each in tried if each["value"] is not None]
        for place, word in ((0, "lowest"), (-1, "highest")):
            if tried[place]["chosen"]:
                found.append(f"{row['name']}'s learning rate is the {word} one tried: a rate beyond it may be better.")
            elif finished and finished[place]["chosen"]:
                found.append(
                    f"{row['name']}'s learning rate is the {word} one that finished: those beyond it did not, which "
                    "does not exclude that one of them is better."
                )
    return found


def _hopeless(result: dict[str, Any]) -> list[str]:
    stopped = sum(run["hopeless"] for row in result["optimizers"] for run in row["runs"])
    if not stopped:
        return []
    runs = "1 run of a sweep was" if stopped == 1 else f"{stopped} runs of sweeps were"
    return [
        f"{runs} stopped early: at half of the steps more than {MARGIN:.0%} behind what the best runs so far with "
        "the same optimizer had at a quarter."
    ]


def _not_timed(result: dict[str, Any]) -> list[str]:
    """Whose time and memory are not those of timing runs, where others' are."""
    if not any(row["timing"] for row in result["optimizers"]):
        return []
    names = [row["name"] for row in result["optimizers"] if not row["timing"] and row["seconds_per_step"]]
    return [
        f"WARNING: {name}'s timing runs did not finish: its time and peak are those of its trainings, and cannot be "
        "compared."
        for name in names
    ]


def _disturbed(result: dict[str, Any], plan: Plan) -> list[str]:
    """Whether time per step can be compared."""
    timings = {row["name"]: row["timing"] for row in result["optimizers"]}
    if not any(timings.values()):
        which = f"up to {plan.jobs} at a time" if plan.jobs > 1 else "some maybe beside other programs or hours apart"
        return [
            f"Time per step and peak memory are those of the training runs, {which}: --timing-rounds 3 measures them "
            "in runs of their own."
        ]
    loads = [load for timing in timings.values() if timing for load in timing["other_cores"] if load is not None]
    disturbed = [load for load in loads if load > DISTURBED]
    measured = "Time per step and peak memory: timing runs of 20 steps without validation, one at a time"
    if disturbed:
        return [
            f"WARNING: during {len(disturbed)} of {len(loads)} timing runs other programs used CPU (up to "
            f"{max(disturbed):.1f} cores): repeat them on an idle machine before times are compared.",
            f"{measured}.",
        ]
    return [
        f"{measured}; no other program used more than {DISTURBED} CPU cores meanwhile." if loads else f"{measured}."
    ]
