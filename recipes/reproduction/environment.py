"""In what this environment differs from the one that a report has recorded."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipes import resolvers
from recipes.fingerprint import file_sha256
from recipes.provenance import code_sha256, git_commit, git_dirty, image, locks, machine, packages

SHOWN = 12
DIGITS = 12


def differences(recorded: Mapping[str, Any]) -> Iterator[str]:
    """What is not as it was, a sentence each: settings, code, image, packages, data and weights, machine.

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
    if recorded["machine"].get("accelerator") is None:  # the run asked for none, or there was none
        here |= {"accelerator": here["accelerator"] if device.type == "cpu" else f"{here['accelerator']} (if used)"}
    yield from _values("machine", recorded["machine"], here)
    yield from _values("lock", recorded["locks"], locks())


def _assets(recorded: Mapping[str, str]) -> Iterator[str]:
    resolvers.register()
    for name, digest in recorded.items():
        try:
            path = Path(OmegaConf.create({"path": name})["path"])
            found = file_sha256(path) if path.exists() else None
        except (OmegaConfBaseException, OSError):
            found = None
        if found is None:
            yield f"{name} is not here"
        elif found != digest:
            yield f"{name} has sha256 {found[:DIGITS]}..., recorded {digest[:DIGITS]}..."


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
