"""Trains a comparison: starts the runs that its schedule allows, as many at a time as it may, and waits for them."""

import time

from recipes.compare import processes
from recipes.compare.hopeless import watch
from recipes.compare.plan import Plan, Trial
from recipes.compare.progress import Screen
from recipes.compare.runs import Run, finished
from recipes.compare.schedule import Schedule

SECONDS_BETWEEN_CHECKS = 0.2


def train(plan: Plan, schedule: Schedule, screen: Screen) -> None:
    """Runs the trials that are not finished.

    Args:
        plan: The comparison.
        schedule: Gets the outcome of each run, also of those that were finished before.
        screen: Shows the progress.

    Raises:
        RecipeError: A folder cannot be written, or a sweep has no validation metric to choose by.
        KeyboardInterrupt: The user pressed Ctrl-C; the processes have ended.
    """
    running: list[Run] = []
    with processes.ended_by_signals():
        try:
            _start(plan, schedule, screen, running)
            while running:
                screen.tick()
                time.sleep(SECONDS_BETWEEN_CHECKS)
                if _collect(schedule, screen, running):
                    _start(plan, schedule, screen, running)
        finally:
            processes.stop([run.process for run in running])


def _start(plan: Plan, schedule: Schedule, screen: Screen, running: list[Run]) -> None:
    """Starts runs until there are as many as there may be, or none is ready."""
    while len(running) < plan.jobs:
        folders = [run.trial.folder for run in running]
        trial = next((trial for trial in schedule.ready() if trial.folder not in folders), None)
        if trial is None:
            return
        kept = finished(trial)
        if kept is not None:
            schedule.add(kept)
            screen.end(kept, schedule.left())
            continue
        screen.start(trial)
        running.append(Run(trial, _options(plan, schedule, trial), alone=plan.jobs == 1 or trial.timing is not None))


def _options(plan: Plan, schedule: Schedule, trial: Trial) -> list[str]:
    return watch(schedule.finished(trial)) if plan.stop_hopeless else []


def _collect(schedule: Schedule, screen: Screen, running: list[Run]) -> bool:
    """Takes out the runs that have ended; returns whether there were any."""
    before = len(running)
    for run in list(running):
        outcome = run.outcome()
        if outcome is not None:
            running.remove(run)
            schedule.add(outcome)
            screen.end(outcome, schedule.left())
    return len(running) < before
