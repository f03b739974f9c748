"""The progress of a comparison on the screen: the runs that go on, the number of runs, the time left."""

import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path
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
        left: The number of its runs.
    """

    def __init__(self, plan: Plan, left: int) -> None:
        self._folder, self._jobs = plan.out, plan.jobs
        self._done, self._left = 0, left
        self._seconds: list[float] = []
        self._running: dict[Path, tuple[Trial, float]] = {}
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[time]}"),
        )
        self._task = self._bar.add_task("", total=left, time="")

    def __enter__(self) -> "Screen":
        if sys.stdout.isatty():
            self._live = Live(self._bar, refresh_per_second=4)
            self._live.__enter__()
        print(f"{self._left} {'run' if self._left == 1 else 'runs'} in {self._folder}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._bar)
            self._live.__exit__(kind, error, trace)

    def start(self, trial: Trial) -> None:
        """Shows a run that has started."""
        time_left = self._time_left()
        self._running[trial.folder] = trial, time.monotonic()
        self._show()
        if self._live is None:
            place = f"{self._done + len(self._running)}/{self._done + self._left}"
            print(f"[{place}] {trial.title}: started{f', {time_left}' if time_left else ''}", flush=True)

    def tick(self) -> None:
        """Updates the time left and the last line of each run."""
        if self._live is None:
            return
        self._show()
        alone = len(self._running) == 1
        lines = [
            Text(
                f"  {'' if alone else f'{trial.title}: '}{last_line(trial)}",
                style="dim",
                no_wrap=True,
                overflow="ellipsis",
            )
            for trial, _ in self._running.values()
        ]
        self._live.update(Group(self._bar, *lines))

    def end(self, outcome: Outcome, left: int) -> None:
        """Shows how a run has ended, or that it was finished before; ``left`` is the number of those that have not."""
        self._done, self._left = self._done + 1, left
        # A timing run is much shorter than the trainings after it.
        if outcome.trial.timing is None and outcome.seconds is not None and outcome.report is not None:
            self._seconds.append(outcome.seconds)
        self._running.pop(outcome.trial.folder, None)
        self._show()
        print(f"[{self._done}/{self._done + left}] {outcome.trial.title}: {_how_it_ended(outcome)}", flush=True)

    def _show(self) -> None:
        """Updates the bar."""
        titles = [trial.title for trial, _ in self._running.values()]
        what = titles[0] if len(titles) == 1 else f"{len(titles)} runs" if titles else ""
        total = self._done + self._left
        self._bar.update(self._task, description=what, completed=self._done, total=total, time=self._time_left())

    def _time_left(self) -> str:
        if not self._seconds or not self._left:
            return ""
        each, now = statistics.fmean(self._seconds), time.monotonic()
        running = sum(max(each - (now - since), 0) for _, since in self._running.values())
        waiting = each * (self._left - len(self._running))
        return f"about {timedelta(seconds=round((running + waiting) / min(self._jobs, self._left)))} left"


def _how_it_ended(outcome: Outcome) -> str:
    if outcome.is_hopeless:
        return f"stopped: {outcome.reason}"
    if outcome.report is None:
        return f"failed: {outcome.reason} (see {outcome.folder / 'log.txt'})"
    if outcome.kept:
        return "already finished, kept"
    return f"finished in {outcome.seconds or 0:.0f} s"
