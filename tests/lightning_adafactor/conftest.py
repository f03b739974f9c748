"""The implementations of the step that the grid of ``specs`` runs on, and trainings for the monitor to measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lightning_adafactor import plain
from lightning_adafactor.compiled import library
from tests.lightning_adafactor import specs
from tests.lightning_adafactor.compiled.available import needs_compiled

if TYPE_CHECKING:
    from tests.lightning_adafactor.monitored import Fit


@pytest.fixture(params=["plain", pytest.param("compiled", marks=needs_compiled)])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way in which an optimizer takes its step on a CPU if nothing is asked for."""
    if request.param == "plain" and "implementation" not in request.fixturenames:
        monkeypatch.setattr(library, "load", lambda: "left out by the test")
    return request.param


@pytest.fixture(
    params=[pytest.param(name, marks=needs_compiled) if name == "compiled" else name for name in specs.IMPLEMENTATIONS]
)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> specs.Implementation:
    """Each implementation in turn, its tile size set."""
    chosen = specs.IMPLEMENTATIONS[request.param]
    if chosen.tile_bytes is not None:
        monkeypatch.setattr(plain, "TILE_BYTES", chosen.tile_bytes)
    return chosen


CHOSEN: dict[str, dict[str, Any]] = {
    "plain": {"fused": False, "compiled": False},
    "compiled": {"compiled": True},
    "fused": {"fused": True},
}


@pytest.fixture(
    params=[pytest.param(name, marks=needs_compiled) if name == "compiled" else name for name in CHOSEN],
)
def arguments(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The arguments that choose each implementation in turn."""
    return CHOSEN[request.param]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Trains a module with callbacks, in the folder of the test."""
    from tests.lightning_adafactor.monitored import fit_in

    return fit_in(tmp_path)
