"""A working folder for comparisons of runs that train nothing."""

import sys
from pathlib import Path

import pytest

from recipes.compare import plan, writing
from tests.recipes.compare.commands import FAKE, recipe


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which ``some.yaml`` is trained by ``fake_fit.py``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    monkeypatch.setattr(plan, "FIT", [sys.executable, FAKE])
    monkeypatch.setattr("recipes.compare.trials.SECONDS_BETWEEN_CHECKS", 0.02)
    # Drawing takes a second; one test draws.
    monkeypatch.setattr(writing, "draw", lambda result, outcomes, file: file.touch())
    recipe()
    return tmp_path
