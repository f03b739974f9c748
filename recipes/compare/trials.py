"""The order of a comparison's runs: timing, then each optimizer's sweep, then the other seeds."""

from collections.abc import Iterable
from statistics import median

from recipes.cli.optimizer_files import Choice
from recipes.compare.hopeless import watch
from recipes.compare.plan import Plan, Trial
from recipes.compare.progress import Screen
from recipes.compare.results import best_of
from recipes.compare.runs import INVALID_SETTINGS, Outcome, finished, run
from recipes.compare.sweep import beyond
from recipes.messages import RecipeError

Rates = dict[str, float | None]


def train(plan: Plan, rates: Rates, screen: Screen) -> Iterable[Outcome]:
    """Runs the trials that are not finished.

    Args:
        plan: The comparison.
        rates: Gets each optimizer's learning rate, by name, once it is chosen.
        screen: Shows the progress.

    Yields:
        The outcome of each run, also of those that were finished before.

    Raises:
        RecipeError: A sweep has no validation metric to choose by.
    """
    timed: list[Outcome] = []
    for trial in plan.timing_trials():
        if not _has_invalid_settings(trial.choice, timed):
            timed.append(_outcome(trial, screen))
            yield timed[-1]
    steps: dict[str, int | None] = {}
    for choice in plan.choices:
        steps[choice.name] = plan.budget.steps(seconds_per_step(choice, timed)) if plan.budget else None
        unknown = plan.budget is not None and steps[choice.name] is None
        if unknown or _has_invalid_settings(choice, timed):
            screen.expect_fewer(len(plan.rates(choice)) + len(plan.seeds) - 1)
            continue
        tried: list[Outcome] = []
        for outcome in _sweep(plan, choice, steps[choice.name], screen):
            tried.append(outcome)
            yield outcome
        _choose_rate(plan, choice, tried, rates)
        if choice.name not in rates:
            screen.expect_fewer(len(plan.seeds) - 1)
    for place in range(len(plan.seeds) - 1):
        for choice in plan.choices:
            if choice.name in rates:
                yield _outcome(plan.further_trials(choice, rates[choice.name], steps[choice.name])[place], screen)


def seconds_per_step(choice: Choice, outcomes: Iterable[Outcome]) -> float | None:
    """The median time of a step over an optimizer's timing runs; None without one."""
    found = [
        outcome.report["seconds_per_step"]
        for outcome in outcomes
        if outcome.trial.timing is not None and outcome.trial.choice is choice and outcome.report is not None
    ]
    found = [seconds for seconds in found if seconds]
    return median(found) if found else None


def _sweep(plan: Plan, choice: Choice, steps: int | None, screen: Screen) -> Iterable[Outcome]:
    """The runs with the first seed: those planned, then one by one beyond the best rate while it is at the edge."""
    tried: list[Outcome] = []
    pending = plan.first_trials(choice, steps)
    added = 0
    while pending:
        tried.append(_outcome(pending.pop(0), screen, best_of(tried) if plan.stop_hopeless else None))
        yield tried[-1]
        if tried[-1].status == INVALID_SETTINGS:
            screen.expect_fewer(len(pending))
            return
        if not pending and added < plan.widen:
            best = best_of(tried)
            rate = None
            if best is not None and best.trial.rate is not None:
                rate = beyond(best.trial.rate, [outcome.trial.rate or 0.0 for outcome in tried])
            if rate is not None:
                added += 1
                screen.expect_more(1)
                pending.append(Trial(plan, choice, rate, plan.seeds[0], steps))


def _choose_rate(plan: Plan, choice: Choice, tried: list[Outcome], rates: Rates) -> None:
    if plan.sweep:
        if any(outcome.report for outcome in tried):
            rates[choice.name] = _best_rate(tried)
    elif not _has_invalid_settings(choice, tried):
        rates[choice.name] = choice.rate


def _best_rate(tried: list[Outcome]) -> float | None:
    best = best_of(tried)
    if best is None:
        raise RecipeError(
            "--sweep-lr: the reports hold no validation metric to choose a learning rate by: give the recipe a "
            "validation split, or omit --sweep-lr"
        )
    return best.trial.rate


def _has_invalid_settings(choice: Choice, outcomes: Iterable[Outcome]) -> bool:
    return any(outcome.status == INVALID_SETTINGS for outcome in outcomes if outcome.trial.choice is choice)


def _outcome(trial: Trial, screen: Screen, best: Outcome | None = None) -> Outcome:
    outcome = finished(trial)
    if outcome is None:
        screen.start(trial)
        outcome = run(trial, screen.tick, watch(best) if best is not None and best.report is not None else ())
    screen.end(outcome)
    return outcome
