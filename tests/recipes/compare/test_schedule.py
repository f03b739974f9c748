"""Which runs of a comparison can start, and that the order in which others end does not matter."""

import random
import re
from pathlib import Path

import pytest

from recipes.compare.command import plan_of
from recipes.compare.plan import Trial
from recipes.compare.runs import INVALID_SETTINGS, Outcome
from recipes.compare.schedule import Schedule
from recipes.messages import RecipeError
from tests.recipes.fake_fit import a_report

RATES = ["3e-5", "6e-5", "1.2e-4"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a recipe."""
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("data: {}\n", encoding="utf-8")


def a_schedule(*options: str, rounds: int = 0) -> Schedule:
    words = ["--config", "some.yaml", "--optimizers", "adamw", "adafactor", "--timing-rounds", str(rounds), *options]
    return Schedule(plan_of(words))


def succeed(trial: Trial) -> Outcome:
    return Outcome(trial, a_report(trial.choice.name, trial.rate or 1e-4, trial.seed))


def titles(trials: list[Trial]) -> list[str]:
    return [trial.title for trial in trials]


def test_without_a_sweep_the_other_seeds_wait_for_the_first(tmp_path: Path) -> None:
    schedule = a_schedule("--seeds", "1", "2", "3")
    first = schedule.ready()
    assert titles(first) == ["adamw, lr 0.0001, seed 1", "adafactor, lr 0.0003, seed 1"]
    assert schedule.left() == 6

    schedule.add(succeed(first[1]))

    further = ["adafactor, lr 0.0003, seed 2", "adafactor, lr 0.0003, seed 3"]
    assert titles(schedule.ready()) == ["adamw, lr 0.0001, seed 1", *further]
    assert schedule.left() == 5


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (
            {"validation": {"rows": 9}},
            "--trainer.check_val_every_n_epoch null --trainer.val_check_interval 10, or omit",
        ),
        ({}, "give the recipe a validation split, or omit --sweep-lr"),
    ],
    ids=["ended before its first validation", "without validation split"],
)
def test_a_run_of_a_sweep_without_validation_metric_ends_it_with_the_remedy(data: dict, remedy: str) -> None:
    schedule = a_schedule("--sweep-lr", *RATES, "--budget-steps", "40")
    with pytest.raises(RecipeError, match=re.escape(remedy)):
        schedule.add(Outcome(schedule.ready()[0], {"steps": 40, "data": data, "metrics": {"test/f1": 0.5}}))


def test_timing_runs_are_ready_one_by_one_before_anything_else() -> None:
    schedule = a_schedule(rounds=2)
    seen = []
    while (trial := schedule.ready()[0]).timing is not None:
        assert len(schedule.ready()) == 1
        seen.append(trial.title)
        schedule.add(succeed(trial))
    each = ["adamw, timing {} of 2", "adafactor, timing {} of 2"]
    assert seen == [title.format(place) for place in (1, 2) for title in each]
    assert titles(schedule.ready()) == ["adamw, lr 0.0001, seed 42", "adafactor, lr 0.0003, seed 42"]


def test_a_sweep_is_widened_only_after_all_its_runs_have_ended() -> None:
    schedule = a_schedule("--sweep-lr", *RATES)
    adamw = [trial for trial in schedule.ready() if trial.choice.name == "adamw"]
    for trial in adamw[:2]:
        schedule.add(succeed(trial))
        assert all(trial.rate != 2.4e-4 for trial in schedule.ready())
    schedule.add(succeed(adamw[2]))
    assert schedule.ready()[0].rate == 2.4e-4
    assert "adamw" not in schedule.rates()


@pytest.mark.parametrize("seed", range(5))
def test_the_order_in_which_runs_end_changes_neither_the_runs_nor_the_rates(seed: int) -> None:
    draw = random.Random(seed)
    schedule = a_schedule("--sweep-lr", *RATES, "--seeds", "1", "2")
    while ready := schedule.ready():
        schedule.add(succeed(draw.choice(ready)))

    swept = [f"lr {rate}, seed 1" for rate in ("3e-05", "6e-05", "0.00012", "0.00024", "0.00048")]
    expected = [f"{name}, {rest}" for name in ("adamw", "adafactor") for rest in (*swept, "lr 0.00024, seed 2")]
    assert sorted(outcome.trial.title for outcome in schedule.outcomes) == sorted(expected)
    assert schedule.rates() == {"adamw": 2.4e-4, "adafactor": 2.4e-4}
    assert schedule.left() == 0


def test_of_an_optimizer_with_invalid_settings_nothing_more_is_run() -> None:
    schedule = a_schedule("--sweep-lr", *RATES, "--seeds", "1", "2")
    schedule.add(Outcome(schedule.ready()[0], None, "no", INVALID_SETTINGS))
    assert {trial.choice.name for trial in schedule.ready()} == {"adafactor"}
    assert schedule.left() == 4


def test_trainings_with_a_budget_validate_their_last_step() -> None:
    trial = a_schedule("--budget-steps", "40").ready()[0]
    assert "recipes.training.last_validation.ValidateLastStep" in trial.command
    assert trial.command[trial.command.index("--trainer.max_steps") + 1] == "40"


def test_a_budget_of_seconds_waits_for_the_timing_runs() -> None:
    schedule = a_schedule("--budget-seconds", "61", rounds=1)
    for _ in range(2):
        schedule.add(succeed(schedule.ready()[0]))
    assert [trial.steps for trial in schedule.ready()] == [30, 30]
    assert schedule.left() == 2


def test_the_finished_runs_of_a_sweep_are_known_while_others_are_left() -> None:
    schedule = a_schedule("--sweep-lr", *RATES)
    first, second, third = schedule.ready()[:3]
    assert schedule.finished(first) == []
    for trial in (first, second):
        schedule.add(succeed(trial))
    assert [outcome.trial for outcome in schedule.finished(third)] == [first, second]
