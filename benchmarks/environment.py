"""The device, versions and load of a measurement."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "triton", "numpy", "transformers", "bitsandbytes", "torchao")


def device_name(device: torch.device) -> str:
    """Returns the model name of the CPU or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), flags=re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def free_bytes(device: torch.device) -> int | None:
    """Returns the free memory in bytes, or None where the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def load() -> float | None:
    """Returns the load average of the last minute, or None where the system does not report it."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def describe(device: torch.device) -> dict[str, Any]:
    """Collects the facts that belong beside every measurement.

    Args:
        device: The device that was measured on.

    Returns:
        Device, versions of the packages that are installed, threads, date, commit, and the machine's load.
    """
    facts: dict[str, Any] = {
        "device": device_name(device),
        "device_type": device.type,
        "versions": {"python": platform.python_version(), **_versions()},
        "threads": torch.get_num_threads(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "git_commit": _git_commit(),
        "load_before": load(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["cuda"] = {
            "runtime": torch.version.cuda,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "memory_bytes": properties.total_memory,
        }
    return facts


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str | None:
    """The commit of this code, marked where files differ from it; None outside of a git checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
