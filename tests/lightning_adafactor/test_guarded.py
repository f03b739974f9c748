"""No step reads or writes outside its tensors: they end, or begin, at inaccessible memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.lightning_adafactor.compiled.available import needs_compiled

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mprotect")


def run(path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.lightning_adafactor.guarded", path]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_guard_catches_one_byte() -> None:
    assert run("touch").returncode == -signal.SIGSEGV


@needs_compiled
@pytest.mark.slow
def test_compiled_step_stays_inside_its_tensors() -> None:
    finished = run("compiled")

    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout.split()[0]) > 1000


@pytest.mark.slow
def test_kernels_stay_inside_their_tensors() -> None:
    finished = run("fused")

    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout.split()[0]) > 50
