"""Which runs of a sweep are watched, and by which value."""

import copy
from pathlib import Path

import pytest

from recipes.compare.command import plan_of
from recipes.compare.hopeless import watch
from recipes.compare.runs import Outcome
from tests.recipes.fake_fit import a_report


@pytest.fixture
def best(tmp_path: Path) -> Outcome:
    (tmp_path / "some.yaml").write_text("data: {}\n", encoding="utf-8")
    plan = plan_of(["--config", str(tmp_path / "some.yaml"), "--optimizers", "adamw", "--out", str(tmp_path)])
    return Outcome(plan.first_trials(plan.choices[0])[0], a_report("adamw"))


def test_the_target_is_95_percent_of_what_the_best_run_had_at_a_quarter_of_its_steps(best: Outcome) -> None:
    assert best.report is not None
    at_a_quarter = best.report["history"]["evaluations"][0]
    assert at_a_quarter[0] == best.report["steps"] / 4
    words = watch([best])
    assert words[:2] == ["--trainer.callbacks+", "recipes.training.hopeless.StopWhenHopeless"]
    settings = dict(zip(words[2::2], words[3::2], strict=True))
    assert settings["--trainer.callbacks.metric"] == "val/f1"
    assert float(settings["--trainer.callbacks.target"]) == pytest.approx(0.95 * at_a_quarter[1]["val/f1"])


@pytest.mark.parametrize(("value", "target"), [(2.0, 2.1), (-2.0, -1.9)])
def test_a_loss_may_be_higher_by_5_percent(value: float, target: float, best: Outcome) -> None:
    assert best.report is not None
    best.report["monitor"] = {"name": "val/loss", "mode": "min"}
    best.report["history"]["evaluations"] = [[best.report["steps"] // 4, {"val/loss": value}]]
    words = watch([best])
    assert float(words[words.index("--trainer.callbacks.target") + 1]) == pytest.approx(target)


def test_nothing_is_watched_without_a_validation_in_the_second_quarter(best: Outcome) -> None:
    assert best.report is not None
    best.report["history"]["evaluations"] = [[1, {"val/f1": 0.1}], [10, {"val/f1": 0.5}]]
    assert watch([best]) == []


def test_a_good_run_that_began_slowly_lowers_the_target_and_a_bad_one_does_not(best: Outcome) -> None:
    assert best.report is not None
    evaluations = best.report["history"]["evaluations"]
    early, final = evaluations[0][1]["val/f1"], best.report["metrics"]["val/f1"]

    def ended(share_early: float, share_final: float) -> Outcome:
        report = copy.deepcopy(best.report)
        assert report is not None
        report["history"]["evaluations"][0][1]["val/f1"] = share_early * early
        report["metrics"]["val/f1"] = share_final * final
        return Outcome(best.trial, report)

    words = watch([ended(0.1, 0.9), best, ended(0.5, 0.96)])
    assert float(words[words.index("--trainer.callbacks.target") + 1]) == pytest.approx(0.95 * 0.5 * early)


def test_nothing_is_watched_before_a_run_has_ended() -> None:
    assert watch([]) == []
