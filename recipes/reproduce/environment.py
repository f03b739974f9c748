"""The differences between this environment and the one in a report."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipes import resolvers
from recipes.checksums import file_sha256
from recipes.models.revisions import cached_commit, split_revision
from recipes.runs.provenance import code_sha256, git_commit, git_dirty, image, locks, machine, packages

SHOWN = 12
DIGITS = 12


def differences(recorded: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each difference: settings, code, image, packages, data and weights, machine.

    Args:
        recorded: The ``provenance`` of a report.
    """
    settings = {"sha256": hashlib.sha256(recorded["config"].encode()).hexdigest()}
    for change in _values("the report's config", {"sha256": recorded.get("config_sha256")}, settings):
        yield f"{change}: the settings were changed after the run"
    yield from _values("git", recorded["git"], {"commit": git_commit(), "dirty": git_dirty()})
    yield from _values("the code's", {"sha256": recorded.get("code_sha256")}, {"sha256": code_sha256()})
    yield from _values("image", recorded["image"], image())
    yield from _assets(recorded["assets"])
    changed = list(_values("package", recorded["packages"], packages()))
    yield from changed[:SHOWN]
    if len(changed) > SHOWN:
        yield f"{len(changed) - SHOWN} more packages"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = machine(device)
    if recorded["machine"].get("accelerator") is None:  # the run used none, or there was none
        here |= {"accelerator": here["accelerator"] if device.type == "cpu" else f"{here['accelerator']} (if used)"}
    yield from _values("machine", recorded["machine"], here)
    missing = missing_devices(recorded)
    if missing is not None:
        yield f"machine devices is {missing}, recorded {recorded['processes']}"
    yield from _values("lock", recorded["locks"], locks())


def missing_devices(recorded: Mapping[str, Any]) -> int | None:
    """How many devices this machine has, if a run of several processes had more; None if there are enough.

    On a CPU, any number of processes can run.

    Args:
        recorded: The ``provenance`` of a report.
    """
    processes = recorded.get("processes") or 1
    if processes == 1 or recorded["machine"].get("accelerator") is None:
        return None
    here = torch.cuda.device_count()
    return here if here < processes else None


def _assets(recorded: Mapping[str, str]) -> Iterator[str]:
    resolvers.register()
    for name, digest in recorded.items():
        if name.startswith("hub:"):
            yield from _repository(name, digest)
            continue
        try:
            path = Path(OmegaConf.create({"path": name})["path"])
            found = file_sha256(path) if path.exists() else None
        except (OmegaConfBaseException, OSError):
            found = None
        if found is None:
            yield f"{name} is missing"
        elif found != digest:
            yield f"{name} has sha256 {found[:DIGITS]}..., recorded {digest[:DIGITS]}..."


def _repository(name: str, commit: str) -> Iterator[str]:
    kind, _, value = name.removeprefix("hub:").partition("/")
    repository, revision = split_revision(value)
    found = cached_commit(repository, "dataset" if kind == "dataset" else "model", revision)
    if found is None:
        yield f"the {kind} {value} of the hub is not in the cache; it was at commit {commit[:DIGITS]}..."
    elif found != commit:
        pin = "data.load_args.revision" if kind == "dataset" else f"{repository}@{commit}"
        commits = f"{found[:DIGITS]}..., recorded {commit[:DIGITS]}..."
        yield f"the {kind} {value} of the hub is at commit {commits} ({pin} pins one)"


def _values(what: str, recorded: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for name in [*recorded, *(name for name in here if name not in recorded)]:
        was, now = recorded.get(name), here.get(name)
        if was != now:
            yield f"{what} {name} is {_shown(now)}, recorded {_shown(was)}"


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"{text[:DIGITS]}..." if len(text) == 64 else text  # a sha256
