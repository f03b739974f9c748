"""Runs the trials of a comparison, one process after the other; finished ones are not run again.

A trial's folder holds ``log.txt`` (the output of all its attempts), ``command.txt``, ``settings.json``, and the run's
folder that ``fit`` creates; a ``report.json`` in it means that the run has finished. Its checkpoints and model are then
deleted, unless they are to be kept: many runs would fill the disk. ``ended.json`` has the seconds, the load of other
programs meanwhile and, of a run that was stopped as hopeless, the reason.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.compare.load import OtherLoad
from recipes.compare.plan import Trial, shown
from recipes.messages import RecipeError
from recipes.runs import slurm
from recipes.runs.folder import VERSION

INVALID_SETTINGS = 2
SECONDS_BETWEEN_CHECKS = 0.2
SECONDS_TO_STOP = 60
LINES_READ = 200
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
        other_cores: CPU cores that other programs kept busy meanwhile, on average; None if unknown.
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
    """The outcome of a trial that was finished before, or stopped as hopeless; else None."""
    found = _report(trial.folder)
    ended = _ended(trial)
    common: dict[str, Any] = {**{key: ended.get(key) for key in ("seconds", "other_cores")}, "kept": True}
    if found is not None:
        file, report = found
        return Outcome(trial, report, folder=file.parent, **common)
    if ended.get("hopeless"):
        return Outcome(trial, None, str(ended["hopeless"]), 1, folder=trial.folder, **common)
    return None


def run(trial: Trial, tick: Callable[[], object] = lambda: None, options: Sequence[str] = ()) -> Outcome:
    """Runs a trial in a process of its own and waits for it.

    Args:
        trial: The trial.
        tick: Called several times a second while the process runs.
        options: Further options of its command, which do not change the result of a run that finishes.

    Raises:
        RecipeError: The trial's folder cannot be written.
        KeyboardInterrupt: The user pressed Ctrl-C; the process has ended.
    """
    command = [*trial.command, *options]
    _prepare(trial, command)
    if not trial.plan.keep_models:
        for attempt in trial.folder.glob("*/version_*"):  # of interrupted attempts: each starts from the beginning
            _drop_weights(attempt)
    load = OtherLoad()
    log = trial.folder / "log.txt"
    with log.open("ab") as output:
        start = output.tell()
        status = _wait(command, output, tick)
    seconds, other_cores = time.monotonic() - load.started, load.cores()
    found = _report(trial.folder) if status == 0 else None
    if found is not None:
        file, report = found
        if not trial.plan.keep_models:
            _drop_weights(file.parent)
        _note_end(trial, seconds, other_cores)
        return Outcome(trial, report, seconds=seconds, folder=file.parent, other_cores=other_cores)
    outcome = Outcome(trial, None, _reason(status, log, start), status, seconds, False, trial.folder, other_cores)
    if outcome.is_hopeless:
        _note_end(trial, seconds, other_cores, outcome.reason)
    return outcome


def last_line(trial: Trial) -> str:
    """The last line that a trial has printed so far."""
    lines = _tail(trial.folder / "log.txt", 0)
    return lines[-1].strip() if lines else ""


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


def _wait(command: Sequence[str], output: Any, tick: Callable[[], object]) -> int:
    """Runs a command, waits for its process and returns its exit status."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    # In a session of its own, so that Ctrl-C reaches it once, from here, and it stops as a single run does.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **slurm.for_children(), **settings},
        start_new_session=True,
    )
    with _ended_by_signals():
        try:
            while process.poll() is None:
                tick()
                time.sleep(SECONDS_BETWEEN_CHECKS)
        finally:
            _stop(process)
    return process.returncode


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and its children: by signals that let it save a checkpoint, then by SIGKILL."""
    try:
        _ask_to_end(process)
    finally:
        # Its session includes the processes of the other devices, if they still run.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    for ask in (signal.SIGINT, signal.SIGTERM):
        if process.poll() is not None:
            return
        try:
            process.send_signal(ask)
            process.wait(SECONDS_TO_STOP)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue
        except (KeyboardInterrupt, SystemExit):
            continue  # a second Ctrl-C: without this the run would go on, with no terminal to end it


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Lets signals that end this process end the run first."""

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, end) for number in names}
    except ValueError:  # not in the main thread, which alone receives signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    for line in reversed(lines):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    for line in reversed(lines):
        if EXCEPTION.match(line):
            return line
    if status == 0:
        return "it succeeded but wrote no report.json: the recipe's module has no save_pretrained"
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
