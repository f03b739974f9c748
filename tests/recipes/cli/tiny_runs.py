"""Commands on ``tiny.yaml``, in this process and in one of their own, and the settings that they leave."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes.cli.main import main

REPOSITORY = Path(__file__).parents[3]
CONFIG = ["--config", "tiny.yaml"]


def run(command: str, *options: str) -> int:
    """Runs a command on ``tiny.yaml`` in this process, without the sanity check."""
    return main([command, *CONFIG, "--trainer.num_sanity_val_steps", "0", *options])


def settings(capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    """What ``--print_config`` prints for a fit with these options."""
    capsys.readouterr()
    assert main(["fit", *options, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def saved(version: int, name: str = "tiny") -> dict:
    """The ``config.yaml`` of a run."""
    return yaml.safe_load(Path(f"runs/{name}/version_{version}/config.yaml").read_text(encoding="utf-8"))


def module(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m name`` as a user does."""
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests' / 'recipes'}"
    return subprocess.run(
        [sys.executable, "-m", name, *args],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
