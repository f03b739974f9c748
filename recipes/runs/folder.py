"""The folder of a run: ``runs/<config name>/version_N/``, a new one for every run.

A run takes its number by creating the folder, which succeeds for one process only: runs that start at the same time
get different folders, and older ones are never written to.
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.messages import RecipeError

VERSION = re.compile(r"version_(\d+)")


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: ``<root>/<name>/version_<version>``."""

    root: Path
    name: str
    version: int

    @property
    def path(self) -> Path:
        """The folder's path."""
        return self.root / self.name / f"version_{self.version}"


def runs_root(default_root_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of all runs: ``trainer.default_root_dir``, else the environment variable RUNS_DIR, else ``runs``."""
    return Path(default_root_dir or os.environ.get("RUNS_DIR") or "runs").expanduser()


def config_name(config: str | os.PathLike[str] | None) -> str:
    """The name of a run's group: the stem of its first ``--config``, or ``run`` without one.

    The ``config.yaml`` of a run belongs to the group of that run.
    """
    if config is None:
        return "run"
    path = Path(config).absolute()
    if path.name == "config.yaml" and VERSION.fullmatch(path.parent.name):
        return path.parent.parent.name
    return path.stem


def versions(root: Path, name: str) -> list[int]:
    """The version numbers in the folder of a group, in ascending order."""
    try:
        entries = os.listdir(root / name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(match[1]) for match in map(VERSION.fullmatch, entries) if match)


def next_folder(root: Path, name: str) -> RunFolder:
    """The folder that the next run would get, not yet created."""
    return RunFolder(root, name, max(versions(root, name), default=-1) + 1)


def claim(root: Path, name: str) -> RunFolder:
    """Creates the folder of a new run, with the next free number.

    Raises:
        RecipeError: The folder cannot be created or written.
    """
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
        while True:
            run = next_folder(root, name)
            try:
                run.path.mkdir()
            except FileExistsError:
                continue
            return run
    except OSError as error:
        raise RecipeError(
            f"the run's folder {root / name}{os.sep}version_N cannot be created ({error.strerror}): "
            "give another folder with --trainer.default_root_dir or the environment variable RUNS_DIR"
        ) from None


def give_back(run: RunFolder) -> None:
    """Removes the folder of a run that failed before it wrote anything, and its group's folder if that is empty."""
    for folder in (run.path, run.path.parent):
        try:
            folder.rmdir()
        except OSError:
            return


def check_exists(run: Path) -> None:
    """Checks that a run's folder has not been removed: what is written there would create it again.

    Raises:
        FileNotFoundError: It has been removed or moved.
    """
    if not run.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the run's folder has been removed or moved", str(run))


def settings_of(run: Path) -> dict[str, Any]:
    """The settings in a run's ``config.yaml`` by dotted keys (``trainer.max_epochs``); none without that file."""
    import yaml

    try:
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return dict(_dotted(settings, "")) if isinstance(settings, dict) else {}


def _dotted(settings: dict[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
