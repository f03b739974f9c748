"""Runs one at a time and several at a time, and their end when this process is interrupted."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.compare import plan, runs, trials
from recipes.compare.command import plan_of
from recipes.compare.plan import Plan
from recipes.compare.progress import Screen
from recipes.compare.schedule import Schedule

CHILD = "from signal import *; import time; signal(SIGINT, SIG_IGN); signal(SIGTERM, SIG_IGN); time.sleep(60)"
TELLS_WHEN = """
import json, os, pathlib, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = pathlib.Path(options["--trainer.default_root_dir"])
began = time.time()
(pathlib.Path("started") / str(os.getpid())).touch()
while len(list(pathlib.Path("started").iterdir())) < int(os.environ["TOGETHER"]) and time.time() < began + 60:
    time.sleep(0.02)
time.sleep(0.1)
(folder / "some" / "version_0").mkdir(parents=True)
report = {"monitor": {"name": "val/f1", "mode": "max"}, "metrics": {"val/f1": 0.5}, "times": [began, time.time()]}
(folder / "some" / "version_0" / "report.json").write_text(json.dumps(report))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a recipe, and a check for ended runs every 20 ms."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "SECONDS_BETWEEN_CHECKS", 0.02)
    monkeypatch.setenv("TOGETHER", "1")
    Path("started").mkdir()
    Path("some.yaml").write_text("data: {}\n", encoding="utf-8")


def a_plan(*options: str) -> Plan:
    return plan_of(["--config", "some.yaml", "--optimizers", "adamw", "adafactor", "--out", "out", *options])


def train(compared: Plan, tick: Callable[[], object] = lambda: None) -> Schedule:
    schedule = Schedule(compared)
    with Screen(compared, schedule.left()) as screen:
        screen.tick = tick  # type: ignore[method-assign]
        trials.train(compared, schedule, screen)
    return schedule


def most_at_a_time(folders: str) -> int:
    """The highest number of runs that went on at the same time."""
    reports = [json.loads(file.read_text()) for file in Path("out").glob(f"*/{folders}/some/version_0/report.json")]
    assert reports
    times = [report["times"] for report in reports]
    return max(sum(began <= moment < end for began, end in times) for moment, _ in times)


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_trainings_as_asked_go_on_at_a_time(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", TELLS_WHEN])
    monkeypatch.setenv("TOGETHER", str(jobs))
    compared = a_plan("--jobs", str(jobs), "--timing-rounds", "0", "--sweep-lr", "1e-4", "3e-4", "1e-3", "--widen", "0")

    schedule = train(compared)

    assert len(schedule.outcomes) == 6
    assert most_at_a_time("lr-*") == jobs


def test_a_timing_run_is_always_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", TELLS_WHEN])
    train(a_plan("--jobs", "4", "--timing-rounds", "2"))
    reports = [
        (file.parts[2], json.loads(file.read_text())["times"]) for file in Path("out").glob("*/*/*/*/report.json")
    ]
    assert len(reports) == 4 + 2
    for place, (name, (began, end)) in enumerate(reports):
        others = [times for other, (_, times) in enumerate(reports) if other != place]
        assert not name.startswith("timing-") or all(until <= began or end <= since for since, until in others)


def test_an_error_in_this_process_ends_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import os, pathlib, time; pathlib.Path(f'{os.getpid()}.process').touch(); time.sleep(60)"
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", program])

    def tick() -> None:
        if len(list(Path().glob("*.process"))) == 2:
            raise OverflowError

    with pytest.raises(OverflowError):
        train(a_plan("--jobs", "2", "--timing-rounds", "0"), tick)
    assert all(_ends(int(file.stem)) for file in Path().glob("*.process"))


def test_an_interrupted_run_leaves_no_process_of_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import pathlib, subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-c', {CHILD!r}]); "
        "pathlib.Path('child').write_text(str(child.pid)); time.sleep(60)"
    )
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", program])

    def tick() -> None:
        if Path("child").exists() and Path("child").read_text():
            raise OverflowError

    with pytest.raises(OverflowError):
        train(a_plan("--timing-rounds", "0"), tick)
    assert _ends(int(Path("child").read_text()))


def test_a_killed_run_leaves_no_process_of_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, pathlib, subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "pathlib.Path('child').write_text(str(child.pid)); os.kill(os.getpid(), 9)"
    )
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", program])

    schedule = train(a_plan("--timing-rounds", "0"))

    assert [outcome.reason for outcome in schedule.outcomes] == [runs.KILLED] * 2
    assert _ends(int(Path("child").read_text()))


def _ends(process: int) -> bool:
    """Whether a process ends within ten seconds; one that nobody has asked for its status has ended too."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
