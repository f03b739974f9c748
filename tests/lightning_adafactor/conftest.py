"""The implementations of the step that the grid of ``specs`` runs on."""

from __future__ import annotations

import pytest

from lightning_adafactor import plain
from tests.lightning_adafactor import specs


@pytest.fixture(params=specs.IMPLEMENTATIONS)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> specs.Implementation:
    """Each implementation in turn, its tile size set."""
    chosen = specs.IMPLEMENTATIONS[request.param]
    if chosen.tile_bytes is not None:
        monkeypatch.setattr(plain, "TILE_BYTES", chosen.tile_bytes)
    return chosen
