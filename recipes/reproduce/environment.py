"""The differences between this environment and the one in a report."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from recipes.runs.changed_assets import DIGITS, changed_or_missing_assets
from recipes.runs.provenance import code_sha256, git_commit, git_dirty, image, locks, machine, packages

SHOWN = 12


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
    yield from changed_or_missing_assets(recorded["assets"])
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
