"""The message for an unexpected error, in one sentence: what was done, the key that led there, the library's message.

The innermost frame of the traceback decides whose code failed. An error of a library or of the user's code becomes a
sentence, and its traceback is written to ``error.txt`` in the run's folder; to a file of its own in the folder of all
runs if there is no run yet. A bug of this project shows its traceback.
"""

import dis
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from recipes.cli.error_keys import Place, place_of
from recipes.cli.jsonargparse_internals import refused_alternatives
from recipes.cli.known_errors import known_error
from recipes.cli.phases import is_after_another, is_before_training, is_creating, what_was_done
from recipes.messages import RecipeError, RunFailed
from recipes.runs.folder import runs_root

PACKAGES = Path(__file__).resolve().parents[2]
OURS = (str(PACKAGES / "recipes") + "/", str(PACKAGES / "lightning_adafactor") + "/")
DEVICE = "CUDA error"
LONGEST = 400
"""Maximum number of characters of the library's message."""
SHOWN_ON_REQUEST = "--debug shows the traceback"
REPORT = (
    "this is a fault of lightning-adafactor: please report it in the issue tracker of the repository that it was "
    "installed from, with the lines above and the configuration"
)
OF_THE_SETTINGS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError)
"""The exceptions of a class that is created with arguments which it does not accept."""


@dataclass(frozen=True)
class Circumstances:
    """What is known of the command in which an error was raised.

    Attributes:
        doing: What was done if the traceback does not say so.
        settings: The settings, with a class_path for each class.
        made: The same with instances in place of them, as far as there are any.
        trainer: The trainer.
        folder: The folder of the run, for ``error.txt``; None if there is none.
        runs: The folder of all runs, for errors without a run.
        resume: How to resume, such as ``resume with --ckpt_path ...``; empty if there is nothing to resume from.
        rank: The number of the process.
    """

    doing: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    made: Any = None
    trainer: Any = None
    folder: Path | None = None
    runs: Path = field(default_factory=runs_root)
    resume: str = ""
    rank: int = 0


def explain_error(error: Exception, at: Circumstances) -> RecipeError | RunFailed:
    """The exception that reports an error to the user; the traceback is written to a file.

    Args:
        error: The error.
        at: The command in which it was raised.
    """
    return _explain(error, at, is_first=False)


def _explain(error: Exception, at: Circumstances, is_first: bool) -> RecipeError | RunFailed:
    """As :func:`explain_error`; for the first of two errors, the sentence alone."""
    cause = _cause(error)
    if isinstance(cause, RecipeError):
        return RecipeError(str(cause))
    frames = list(_frames(error.__traceback__))
    if cause is not error:
        frames += _frames(cause.__traceback__)
    doing = what_was_done(frames, at.doing, at.trainer)
    place = place_of(frames, at.settings, at.made)
    if known := known_error(cause, doing, place, at.settings, at.folder, at.resume):
        return known
    if is_ours(cause):
        return RunFailed(REPORT, is_bug=True)
    sentence = f"{doing} failed{_in(place)}: {_last_line(cause).rstrip('.')}"
    status = 2 if _is_fixable(cause, frames, place, at.trainer) else 1
    first = cause.__context__
    if is_after_another(frames) and isinstance(first, Exception):
        told = _explain(first, replace(at, resume=""), is_first=True)
        sentence = f"{told}; then {sentence}"
        status = told.status if isinstance(told, RunFailed) else 2
    if is_first:
        return RunFailed(sentence, status)
    parts = [sentence, *([at.resume] if at.resume else []), _where_the_traceback_is(error, at)]
    return RunFailed("; ".join(parts), status)


def is_ours(error: BaseException) -> bool:
    """Whether an error is a bug of this project: its innermost frame is here, and it is no message to the user.

    What :mod:`lightning_adafactor` raises on purpose is a message, as that of any library; so is an error of the
    operating system or the device.
    """
    last = _last(error.__traceback__)
    if last is None or isinstance(error, OSError | MemoryError | ImportError) or DEVICE in str(error):
        return False
    file = str(Path(last.tb_frame.f_code.co_filename).resolve())
    if not file.startswith(OURS):
        return False
    on_purpose = last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return file.startswith(OURS[0]) or not on_purpose or isinstance(error, AssertionError)


def _cause(error: BaseException) -> BaseException:
    """The error itself, where jsonargparse has wrapped it: it reports what a class raises as an unexpected value."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        last = _last(error.__traceback__)
        if last is None or "jsonargparse" not in last.tb_frame.f_code.co_filename:
            return error
        others = [*refused_alternatives(last.tb_frame), error.__cause__ or error.__context__]
        inner = [_cause(other) for other in others if other is not None and id(other) not in seen]
        foreign = [other for other in inner if not _is_of_the_parser(other)]
        if not foreign:
            return error
        error = foreign[0]
    return error


def _is_of_the_parser(error: BaseException) -> bool:
    last = _last(error.__traceback__)
    return last is None or "jsonargparse" in last.tb_frame.f_code.co_filename


def _last(found: TracebackType | None) -> TracebackType | None:
    while found is not None and found.tb_next is not None:
        found = found.tb_next
    return found


def _frames(found: TracebackType | None) -> Iterator[FrameType]:
    while found is not None:
        yield found.tb_frame
        found = found.tb_next


def _last_line(error: BaseException) -> str:
    """The name of the error and its message, on one line; of a long one, its beginning."""
    name = type(error).__name__
    message = str(error)
    if "Traceback (most recent call last)" in message:  # of another process
        return message.strip().splitlines()[-1].strip()
    line = " ".join(message.split())
    if len(line) > LONGEST:
        line = line[:LONGEST].rsplit(" ", 1)[0] + " ..."
    return f"{name}: {line}" if line else name


def _in(place: Place | None) -> str:
    if place is None:
        return ""
    return f" in {place.key} ({place.function})" if place.function else f" in {place.key}"


def _is_fixable(error: BaseException, frames: list[FrameType], place: Place | None, trainer: Any) -> bool:
    """Whether the settings or the environment are at fault, and not what happened during the run.

    They are if a class rejects its arguments, a callback rejects the model, or an optimizer fails in its first step.
    """
    if isinstance(error, ImportError):
        return True
    if place is None or DEVICE in str(error):
        return False
    if isinstance(error, OF_THE_SETTINGS) and (is_creating(frames) or is_before_training(frames)):
        return True
    return place.key == "model.optimizer" and getattr(trainer, "global_step", 0) == 0


def _where_the_traceback_is(error: Exception, at: Circumstances) -> str:
    rank = f".rank_{at.rank}" if at.rank else ""
    try:
        file = _new_file(at.runs, rank) if at.folder is None else at.folder / f"error{rank}.txt"
        with file.open("w", encoding="utf-8", errors="backslashreplace") as written:
            written.writelines(traceback.format_exception(error))
    except OSError:
        return SHOWN_ON_REQUEST
    return f"the traceback is in {file}"


def _new_file(folder: Path, rank: str) -> Path:
    """Creates a file with the date in its name; of two commands in one second, each gets its own."""
    folder.mkdir(parents=True, exist_ok=True)
    number, name = 1, f"error_{datetime.now():%Y-%m-%d_%H-%M-%S}{rank}.txt"
    while True:
        file = folder / (f"{number}_{name}" if number > 1 else name)
        try:
            file.touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return file
