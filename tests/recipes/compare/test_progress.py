"""What a comparison says about its progress."""

from pathlib import Path

import pytest

from recipes.compare.command import plan_of
from recipes.compare.plan import Trial
from recipes.compare.progress import Screen
from recipes.compare.runs import Outcome
from recipes.compare.schedule import Schedule
from tests.recipes.fake_fit import a_report


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a recipe."""
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("data: {}\n", encoding="utf-8")


def test_the_time_left_is_that_of_trainings_not_of_the_short_timing_runs(capsys: pytest.CaptureFixture) -> None:
    plan = plan_of(["--config", "some.yaml", "--optimizers", "adamw", "--timing-rounds", "1", "--seeds", "1", "2", "3"])
    schedule = Schedule(plan)
    screen = Screen(plan, schedule.left())

    def run(seconds: float) -> str:
        """What is said when the next run starts; it then ends."""
        trial: Trial = schedule.ready()[0]
        screen.start(trial)
        report = a_report(trial.choice.name, trial.rate or 1e-4, trial.seed)
        schedule.add(outcome := Outcome(trial, report, seconds=seconds))
        said = capsys.readouterr().out
        screen.end(outcome, schedule.left())
        capsys.readouterr()
        return said

    assert [run(seconds) for seconds in (5.0, 100.0, 100.0)] == [
        "[1/4] adamw, timing 1 of 1: started\n",
        "[2/4] adamw, lr 0.0001, seed 1: started\n",
        "[3/4] adamw, lr 0.0001, seed 2: started, about 0:03:20 left\n",
    ]
