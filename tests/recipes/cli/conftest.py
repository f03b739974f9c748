"""What every test of the command line can rely on."""

import logging

import pytest


@pytest.fixture(autouse=True)
def closed_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning logs to the standard error of the test that imported it, which may be closed by now."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
