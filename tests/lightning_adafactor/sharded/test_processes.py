"""Several processes of a test end together."""

import pathlib
import time

import pytest

from tests.lightning_adafactor.sharded import processes


def test_processes_that_hang_are_ended(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LONGEST", 0.1)

    with pytest.raises(AssertionError, match=r"rank 0: did not end within 0.1 s\nrank 1: did not end"):
        processes.run(time.sleep, 2, tmp_path, 600)
