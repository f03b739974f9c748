"""One comparison at a time in a folder: a second one would delete the checkpoints of the first one's run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from recipes.messages import RecipeError

try:
    import fcntl
except ImportError:  # Windows: a second comparison is not noticed there
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds a lock on a folder; the system releases it when the process ends, however it ends.

    Args:
        folder: The folder of the comparison; created if it does not exist.

    Raises:
        RecipeError: Another process holds the lock, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{folder} cannot be written ({error.strerror}): give another folder with --out") from None
    with file:
        if fcntl is not None:
            _lock(file, folder)
        yield


def _lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip()
        raise RecipeError(
            f"another comparison{f', process {holder},' if holder else ''} is running in {folder}: wait for its end, "
            "or give another folder with --out"
        ) from None
    except OSError:
        return  # a file system without locks
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
