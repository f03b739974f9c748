"""The progress of a comparison on the screen: the current run, the number of runs, the time left."""

import statistics
import sys
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from recipes.compare.plan import Plan, Trial
from recipes.compare.runs import Outcome, last_line


class Screen:
    """A progress bar over all runs of a comparison on a terminal, lines of text elsewhere.

    Args:
        plan: The comparison.
    """

    def __init__(self, plan: Plan) -> None:
        self._folder = plan.out
        self._total = plan.size()
        self._done = 0
        self._seconds: list[float] = []
        self._trial: Trial | None = None
        self._since = 0.0
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._task = self._bar.add_task("", total=self._total, left="")

    def __enter__(self) -> "Screen":
        if sys.stdout.isatty():
            self._live = Live(self._bar, refresh_per_second=4)
            self._live.__enter__()
        print(f"{self._total} {'run' if self._total == 1 else 'runs'} in {self._folder}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._bar)
            self._live.__exit__(kind, error, trace)

    def expect_fewer(self, runs: int) -> None:
        """Subtracts runs that are skipped."""
        self._total -= runs
        self._bar.update(self._task, total=self._total)

    def expect_more(self, runs: int) -> None:
        """Adds runs that were not planned."""
        self.expect_fewer(-runs)

    def start(self, trial: Trial) -> None:
        """Shows a run that has started."""
        self._trial, self._since = trial, time.monotonic()
        self._bar.update(self._task, description=trial.title, left=self._left())
        if self._live is None:
            left = self._left()
            print(f"[{self._done + 1}/{self._total}] {trial.title}: started{f', {left}' if left else ''}", flush=True)

    def tick(self) -> None:
        """Updates the time left and the run's last line."""
        if self._live is None or self._trial is None:
            return
        self._bar.update(self._task, left=self._left())
        line = Text(f"  {last_line(self._trial)}", style="dim", no_wrap=True, overflow="ellipsis")
        self._live.update(Group(self._bar, line))

    def end(self, outcome: Outcome) -> None:
        """Shows how a run has ended, or that it was finished before."""
        self._done += 1
        if outcome.seconds is not None and outcome.report is not None:
            self._seconds.append(outcome.seconds)
        self._trial = None
        self._bar.update(self._task, completed=self._done, left="")
        print(f"[{self._done}/{self._total}] {outcome.trial.title}: {_how_it_ended(outcome)}", flush=True)

    def _left(self) -> str:
        if not self._seconds:
            return ""
        each = statistics.fmean(self._seconds)
        left = max(each - (time.monotonic() - self._since), 0) + each * (self._total - self._done - 1)
        return f"about {timedelta(seconds=round(left))} left"


def _how_it_ended(outcome: Outcome) -> str:
    if outcome.is_hopeless:
        return f"stopped: {outcome.reason}"
    if outcome.report is None:
        return f"failed: {outcome.reason} (see {outcome.folder / 'log.txt'})"
    if outcome.kept:
        return "already finished, kept"
    return f"finished in {outcome.seconds or 0:.0f} s"
