"""Which runs of a comparison can start: timing, then each optimizer's sweep, then the other seeds."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from recipes.cli.optimizer_files import Choice
from recipes.compare.metrics import monitor_of
from recipes.compare.plan import Plan, Trial
from recipes.compare.results import best_of, with_score
from recipes.compare.runs import INVALID_SETTINGS, Outcome
from recipes.compare.sweep import beyond
from recipes.messages import RecipeError


class Schedule:
    """The runs of a comparison that have ended, and those that follow from them.

    Which runs there are depends on how the others ended, not on the order in which they did. When a hopeless run is
    stopped does depend on it: by the runs that had ended when it started.

    Args:
        plan: The comparison.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ended: dict[Path, Outcome] = {}

    def add(self, outcome: Outcome) -> None:
        """Adds a run that has ended.

        Raises:
            RecipeError: A run of a sweep has no validation metric to choose a learning rate by.
        """
        report = outcome.report
        if self._plan.sweep and outcome.trial.timing is None and report is not None and monitor_of(report) is None:
            remedy = "give the recipe a validation split"
            if "validation" in (report.get("data") or {}):
                batches = max(1, int(report.get("steps") or 0) // 4)
                remedy = (
                    "it ended before the first validation, so validate more often, such as with "
                    f"--trainer.check_val_every_n_epoch null --trainer.val_check_interval {batches}"
                )
            raise RecipeError(
                f"--sweep-lr: the report in {outcome.folder} holds no validation metric to choose a learning rate by: "
                f"{remedy}, or omit --sweep-lr"
            )
        self._ended[outcome.trial.folder] = outcome

    @property
    def outcomes(self) -> list[Outcome]:
        """The runs that have ended, in the order in which they did."""
        return list(self._ended.values())

    def ready(self) -> list[Trial]:
        """The runs that have not ended and need no other run to end first, in the order in which to start them.

        A timing run stands alone, since nothing else may run beside it.
        """
        left = [trial for trial in self._runs() if trial is not None and trial.folder not in self._ended]
        return left[:1] if left and left[0].timing is not None else left

    def left(self) -> int:
        """The number of runs that have not ended, without those that a sweep may still add."""
        return sum(trial is None or trial.folder not in self._ended for trial in self._runs())

    def rates(self) -> dict[str, float | None]:
        """The learning rate chosen for each optimizer whose sweep has ended, by name."""
        sweeps = [(choice, self._sweep(choice)) for choice in self._plan.choices]
        return {choice.name: self._rate(choice, sweep) for choice, sweep in sweeps if self._is_chosen(choice, sweep)}

    def finished(self, trial: Trial) -> list[Outcome]:
        """The runs so far, with a validation metric, of the sweep that a training belongs to; none for other runs."""
        if trial.timing is not None or trial.seed != self._plan.seeds[0]:
            return []
        return with_score(self._tried(self._sweep(trial.choice)))

    def _runs(self) -> Iterator[Trial | None]:
        """All runs, each before those that wait for it; None for one whose settings are not known yet."""
        timing = [trial for trial in self._plan.timing_trials() if trial.folder in self._ended or self._is_valid(trial)]
        yield from timing
        if any(trial.folder not in self._ended for trial in timing):
            for choice in self._plan.choices:
                yield from [None] * (len(self._plan.rates(choice)) + len(self._plan.seeds) - 1)
            return
        sweeps = {choice.name: self._sweep(choice) for choice in self._plan.choices}
        for sweep in sweeps.values():
            yield from sweep
        for place in range(len(self._plan.seeds) - 1):
            for choice in self._plan.choices:
                sweep = sweeps[choice.name]
                if self._is_chosen(choice, sweep):
                    yield self._plan.further_trials(choice, self._rate(choice, sweep), self._steps(choice))[place]
                elif any(trial.folder not in self._ended for trial in sweep):
                    yield None

    def _is_valid(self, trial: Trial) -> bool:
        """Whether no run of the same optimizer has ended with an error in its settings."""
        same = (outcome for outcome in self._ended.values() if outcome.trial.choice is trial.choice)
        return all(outcome.status != INVALID_SETTINGS for outcome in same)

    def _steps(self, choice: Choice) -> int | None:
        """The steps of an optimizer's trainings; None: as the recipe has it, or unknown."""
        return self._plan.budget.steps(self._seconds_per_step(choice)) if self._plan.budget else None

    def _seconds_per_step(self, choice: Choice) -> float | None:
        """The median time of a step over an optimizer's timing runs; None without one."""
        found = [
            outcome.report["seconds_per_step"]
            for outcome in self._ended.values()
            if outcome.trial.timing is not None and outcome.trial.choice is choice and outcome.report is not None
        ]
        found = [seconds for seconds in found if seconds]
        return median(found) if found else None

    def _sweep(self, choice: Choice) -> list[Trial]:
        """The runs with the first seed: those planned, then one by one beyond the best rate while it is at the edge."""
        steps = self._steps(choice)
        if self._plan.budget and steps is None:
            return []
        trials = self._plan.first_trials(choice, steps)
        trials = [trial for trial in trials if trial.folder in self._ended or self._is_valid(trial)]
        for _ in range(self._plan.widen):
            tried = self._tried(trials)
            best = best_of(tried)
            if len(tried) < len(trials) or best is None or best.trial.rate is None:
                break
            rate = beyond(best.trial.rate, [outcome.trial.rate or 0.0 for outcome in tried])
            if rate is None:
                break
            trials.append(Trial(self._plan, choice, rate, self._plan.seeds[0], steps))
        return trials

    def _tried(self, trials: list[Trial]) -> list[Outcome]:
        return [self._ended[trial.folder] for trial in trials if trial.folder in self._ended]

    def _is_chosen(self, choice: Choice, sweep: list[Trial]) -> bool:
        """Whether an optimizer's sweep has ended with a rate for the other seeds."""
        tried = self._tried(sweep)
        if not tried or len(tried) < len(sweep):
            return False
        if self._plan.sweep:
            return best_of(tried) is not None
        return all(outcome.status != INVALID_SETTINGS for outcome in tried)

    def _rate(self, choice: Choice, sweep: list[Trial]) -> float | None:
        """The rate of the best run of a sweep that has ended."""
        if not self._plan.sweep:
            return choice.rate
        best = best_of(self._tried(sweep))
        assert best is not None, "asked before the rate is chosen"
        return best.trial.rate
