"""How the processes of runs are ended."""

import signal
import subprocess
import sys
import time

import pytest

from recipes.compare import processes

DEAF = "from signal import *; import time; signal(SIGINT, SIG_IGN); print('ready', flush=True); time.sleep(60)"
OBEDIENT = """
import time
try:
    print('ready', flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    print('saved', flush=True)
"""


def started(program: str) -> processes.Process:
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_all_processes_are_asked_at_once_and_may_save_a_checkpoint() -> None:
    several = [started(OBEDIENT) for _ in range(3)]
    asked = time.monotonic()

    processes.stop(several)

    assert time.monotonic() - asked < processes.SECONDS_TO_STOP
    assert [process.stdout.read() for process in several if process.stdout] == [b"saved\n"] * 3


def test_a_process_that_ignores_ctrl_c_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS_TO_STOP", 0.2)
    process = started(DEAF)
    processes.stop([process])
    assert process.poll() is not None


def test_runs_in_the_background_are_not_asked_by_an_interrupt_that_they_ignore() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = started(DEAF)
        asked = time.monotonic()
        processes.stop([process])
    finally:
        signal.signal(signal.SIGINT, before)

    assert time.monotonic() - asked < processes.SECONDS_TO_STOP
    assert process.returncode == -signal.SIGTERM


def test_a_second_ctrl_c_ends_the_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    process = started(DEAF)
    wait, presses = process.wait, iter([KeyboardInterrupt])

    def pressed_once(timeout: float | None = None) -> int:
        for press in presses:
            raise press
        return wait(timeout)

    monkeypatch.setattr(process, "wait", pressed_once)

    processes.stop([process])

    assert process.poll() is not None
