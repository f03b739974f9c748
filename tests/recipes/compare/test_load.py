"""The load of other programs: what this process and its children use does not count."""

import subprocess
import sys

import psutil
import pytest

from recipes.compare import load
from recipes.compare.load import OtherLoad


def test_only_the_cpu_time_of_others_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, busy, own = iter([10.0, 20.0]), iter([100.0, 118.0]), iter([3.0, 8.0])
    monkeypatch.setattr(load.time, "monotonic", lambda: next(clock))
    measured = OtherLoad(next(clock), next(busy), next(own))
    monkeypatch.setattr(load, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(load, "_own_seconds", lambda: next(own))
    assert measured.cores() == 1.3  # 18 busy seconds, 5 of them ours, in 10 seconds


def test_a_child_that_has_ended_counts_as_our_own() -> None:
    before = load._own_seconds()
    source = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", source], check=True)
    assert load._own_seconds() - before > 0.25


def test_busy_seconds_leave_out_idle_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = psutil.cpu_times()
    monkeypatch.setattr(psutil, "cpu_times", lambda: times)
    assert 0 < load._busy_seconds() <= sum(times) - times.idle
