"""Runs the trials of a comparison, each in a process of its own; finished ones are not run again.

A trial's folder holds ``log.txt`` (the output of all its attempts), ``command.txt``, ``settings.json``, and the run's
folder that ``fit`` creates; a ``report.json`` in it means that the run has finished. Checkpoints and model of a run
that has ended are deleted, unless they are to be kept: many runs would fill the disk. ``ended.json`` has the seconds,
the load of other programs meanwhile and, of a run that was stopped as hopeless, the reason.
"""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.compare import processes
from recipes.compare.load import OtherLoad
from recipes.compare.plan import Trial, shown
from recipes.messages import RecipeError
from recipes.runs.folder import VERSION

INVALID_SETTINGS = 2
LINES_READ = 200
RANK = re.compile(r"^\[rank: \d+\] ")
EXCEPTION = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit|Interrupt)\b.*")
HOPELESS = "hopeless: "
ENDED = "ended.json"
KILL = 9
KILLED = "killed by the system, most likely because the machine ran out of memory"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        report: The content of its ``report.json``; None if it did not finish.
        reason: Why it did not finish, in one line.
        status: Exit status of its process; 0 if it was finished before.
        seconds: Wall time of its process, None if it did not run.
        other_cores: CPU cores that other programs kept busy meanwhile, on average; None if unknown, or if other runs of
            the comparison went on at the same time.
        kept: Whether it was finished before.
        folder: The run's folder, or the trial's if it did not finish.
    """

    trial: Trial
    report: dict[str, Any] | None
    reason: str = ""
    status: int = 0
    seconds: float | None = None
    kept: bool = False
    folder: Path = Path()
    other_cores: float | None = None

    @property
    def is_hopeless(self) -> bool:
        """Whether it was stopped because it was far behind another run."""
        return self.report is None and self.reason.startswith(HOPELESS)


def finished(trial: Trial) -> Outcome | None:
    """The outcome of a trial that was finished before, or stopped as hopeless where it would be again; else None."""
    found = _report(trial.folder)
    ended = _ended(trial)
    common: dict[str, Any] = {**{key: ended.get(key) for key in ("seconds", "other_cores")}, "kept": True}
    if found is not None:
        file, report = found
        return Outcome(trial, report, folder=file.parent, **common)
    if ended.get("hopeless") and trial.plan.stop_hopeless and trial.seed == trial.plan.seeds[0]:
        return Outcome(trial, None, str(ended["hopeless"]), 1, folder=trial.folder, **common)
    return None


class Run:
    """A trial in a process of its own, from its start on.

    Args:
        trial: The trial.
        options: Further options of its command, which do not change the result of a run that finishes.
        alone: Whether no other run goes on meanwhile, so that the machine's load is that of other programs.

    Raises:
        RecipeError: The trial's folder cannot be written.
    """

    def __init__(self, trial: Trial, options: Sequence[str] = (), alone: bool = True) -> None:
        command = [*trial.command, *options]
        _prepare(trial, command)
        _drop_attempts(trial)
        self.trial = trial
        self.started = time.monotonic()
        self._load = OtherLoad() if alone else None
        self._log = trial.folder / "log.txt"
        with self._log.open("ab") as output:
            self._start = output.tell()
            self.process = processes.start(command, output)

    def outcome(self) -> Outcome | None:
        """How it has ended; None while it runs."""
        status = self.process.poll()
        if status is None:
            return None
        processes.stop([self.process])
        trial, seconds = self.trial, time.monotonic() - self.started
        other_cores = self._load.cores() if self._load is not None else None
        found = _report(trial.folder) if status == 0 else None
        if found is not None:
            file, report = found
            if not trial.plan.keep_models:
                _drop_weights(file.parent)
            _note_end(trial, seconds, other_cores)
            return Outcome(trial, report, seconds=seconds, folder=file.parent, other_cores=other_cores)
        reason = _reason(status, self._log, self._start)
        outcome = Outcome(trial, None, reason, status, seconds, False, trial.folder, other_cores)
        _drop_attempts(trial)
        if outcome.is_hopeless:
            _note_end(trial, seconds, other_cores, outcome.reason)
        return outcome


def last_line(trial: Trial) -> str:
    """The last line that a trial has printed so far."""
    lines = _tail(trial.folder / "log.txt", 0)
    return lines[-1].strip() if lines else ""


def _drop_attempts(trial: Trial) -> None:
    """Deletes the weights of attempts that did not finish: another one starts from the beginning."""
    if not trial.plan.keep_models:
        for attempt in trial.folder.glob("*/version_*"):
            _drop_weights(attempt)


def _drop_weights(folder: Path) -> None:
    """Deletes the checkpoints and the model of a run, to save disk space."""
    for name in ("checkpoints", "model"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _note_end(trial: Trial, seconds: float, other_cores: float | None, hopeless: str | None = None) -> None:
    ended = {"seconds": round(seconds, 1), "other_cores": other_cores, "hopeless": hopeless}
    (trial.folder / ENDED).write_text(json.dumps(ended) + "\n", encoding="utf-8")


def _prepare(trial: Trial, command: Sequence[str]) -> None:
    try:
        trial.folder.mkdir(parents=True, exist_ok=True)
        settings = json.dumps(trial.settings, indent=2, default=str)
        (trial.folder / "settings.json").write_text(settings + "\n", encoding="utf-8")
        (trial.folder / "command.txt").write_text(shown(command) + "\n", encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"{trial.folder} cannot be written ({error.strerror}): give another folder with --out"
        ) from None


def _report(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The report of a trial and its file. Of several the first counts: the others are from ``recipes.reproduce``."""
    files = [file for file in folder.glob("*/version_*/report.json") if VERSION.fullmatch(file.parent.name)]
    for file in sorted(files, key=lambda file: int(file.parent.name.rpartition("_")[2])):
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # truncated: the run was interrupted while it wrote it
        if isinstance(report, dict):
            return file, report
    return None


def _ended(trial: Trial) -> dict[str, Any]:
    try:
        ended = json.loads((trial.folder / ENDED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return ended if isinstance(ended, dict) else {}


def _reason(status: int, log: Path, start: int) -> str:
    """Why a process did not finish: its error message, else the exception, else its exit status."""
    if status == -KILL:
        return KILLED
    if status < 0:
        return f"ended by signal {-status} ({signal.strsignal(-status) or 'unknown'})"
    lines = _tail(log, start)
    for line in (RANK.sub("", line) for line in reversed(lines)):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    for line in reversed(lines):
        if EXCEPTION.match(line):
            return line
    if status == 0:
        return "it succeeded but wrote no report.json: only modules that are a recipes.recipe.Recipe have one"
    return f"exit status {status}{f', after: {lines[-1]}' if lines else ''}"


def _tail(log: Path, start: int, length: int = 20_000) -> list[str]:
    """The last lines of a log, from byte ``start`` on."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - length))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines()]
    return [line for line in lines if line][-LINES_READ:]
