"""The results that are computed from reports, whatever the task."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from recipes.checksums import file_sha256
from recipes.compare.command import plan_of
from recipes.compare.metrics import main_quality, mode_of, mode_of_quality, quality_names, score_of
from recipes.compare.plan import Plan
from recipes.compare.results import best_of, comparison, spread
from recipes.compare.runs import Outcome
from tests.recipes.fake_fit import a_report


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two optimizers with the rates of their files and two seeds."""
    (tmp_path / "some.yaml").write_text("data: {}\n", encoding="utf-8")
    out = tmp_path / "out"
    return plan_of(f"--config {tmp_path / 'some.yaml'} --optimizers adafactor adamw --seeds 1 2 --out {out}".split())


def outcomes(plan: Plan, **changes: Any) -> list[Outcome]:
    return [
        Outcome(trial, a_report(choice.name, choice.rate or 0, trial.seed, **changes), seconds=9.0, folder=trial.folder)
        for choice in plan.choices
        for trial in [*plan.first_trials(choice), *plan.further_trials(choice, choice.rate)]
    ]


def test_data_that_have_changed_since_a_kept_run_are_named(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = {}
    for name in ("same.csv", "edited.csv"):
        Path(name).write_text("a\n")
        recorded[name] = file_sha256(Path(name))
    runs = outcomes(plan, provenance={"assets": {**recorded, "gone.csv": "0" * 64}})
    Path("edited.csv").write_text("b\n")

    assert compared(plan, runs)["changed_since"] == []
    result = compared(plan, [dataclasses.replace(run, kept=True) for run in runs])
    assert f"WARNING: {result['changed_since'][0]}: it has changed since runs that were kept" in result["remarks"][0]
    (change,) = result["changed_since"]
    assert change.startswith("edited.csv has sha256 ")


def compared(plan: Plan, runs: list[Outcome]) -> dict[str, Any]:
    return comparison(plan, runs, {choice.name: choice.rate for choice in plan.choices}, "the command")


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        *[("test/f1", "max"), ("val/token_accuracy", "max"), ("test/answer_f1", "max"), ("test/rougeLsum", "max")],
        *[("test/perplexity", "min"), ("val/loss", "min"), ("test/word-error", "min"), ("test/bits_per_byte", "min")],
        *[("x", None), ("test/swerve", None)],
    ],
)
def test_the_mode_of_a_metric_follows_from_its_name(metric: str, mode: str | None) -> None:
    assert mode_of(metric) == mode


def test_the_mode_of_quality_is_that_of_the_monitored_metric() -> None:
    report = {"metrics": {"val/zeta": 1.0, "test/zeta": 1.0}, "monitor": {"name": "val/zeta", "mode": "min"}}
    assert mode_of_quality("test/zeta", [report]) == "min"
    assert mode_of_quality("test/f1", [report]) == "max"
    assert mode_of_quality("test/other", [report]) is None


def test_the_score_is_the_monitored_metric_in_either_mode() -> None:
    high = {"metrics": {"val/f1": 0.8}, "monitor": {"name": "val/f1", "mode": "max"}}
    low = {"metrics": {"val/loss": 2.0}, "monitor": {"name": "val/loss", "mode": "min"}}
    assert (score_of(high), score_of(low)) == (0.8, -2.0)


def test_without_validation_there_is_no_score() -> None:
    assert math.isnan(score_of({"metrics": {"test/f1": 0.8}, "monitor": {"name": None, "mode": None}}))


def test_the_best_run_is_chosen_by_validation_and_not_by_test_metrics(plan: Plan) -> None:
    trials = [*plan.first_trials(plan.choices[0]), *plan.first_trials(plan.choices[1])]
    reports = [
        {"metrics": {"val/f1": 0.7, "test/f1": 0.9}, "monitor": {"name": "val/f1", "mode": "max"}},
        {"metrics": {"val/f1": 0.8, "test/f1": 0.6}, "monitor": {"name": "val/f1", "mode": "max"}},
    ]
    best = best_of([Outcome(trial, report) for trial, report in zip(trials, reports, strict=True)])
    assert best is not None
    assert best.report is reports[1]


def test_a_validation_metric_that_is_nan_is_never_the_best(plan: Plan) -> None:
    trial = plan.first_trials(plan.choices[0])[0]
    for value in (math.nan, math.inf, None):  # a report holds what is not finite as null
        report = {"metrics": {"val/f1": value}, "monitor": {"name": "val/f1", "mode": "max"}}
        assert best_of([Outcome(trial, report), Outcome(trial, None)]) is None


@pytest.mark.parametrize(
    ("metrics", "names", "main"),
    [
        (["val/f1", "test/loss", "test/f1", "test/accuracy"], ["test/accuracy", "test/f1"], "test/f1"),
        (["val/loss", "val/perplexity"], ["val/perplexity"], "val/perplexity"),
        (["val/loss", "test/accuracy", "test/perplexity"], ["test/accuracy", "test/perplexity"], "test/perplexity"),
        (["val/loss", "test/loss"], ["test/loss"], "test/loss"),
        (["val/loss", "test/loss", "test/bleu"], ["test/bleu"], "test/bleu"),
        ([], [], None),
    ],
)
def test_test_metrics_are_shown_else_validation_metrics_and_the_loss_only_alone(
    metrics: list[str], names: list[str], main: str | None
) -> None:
    report = {"metrics": dict.fromkeys(metrics, 0.5), "monitor": {"name": metrics[0] if metrics else None}}
    assert quality_names([report]) == names
    assert main_quality([report]) == main


def test_the_standard_deviation_of_one_run_is_unknown_and_not_zero() -> None:
    assert spread([0.5]) == {"median": 0.5, "mean": 0.5, "std": None, "min": 0.5, "max": 0.5, "n": 1, "values": [0.5]}
    assert spread([1.0, 3.0])["std"] == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_the_standard_deviation_of_an_infinite_value_is_unknown(value: float) -> None:
    assert spread([value, 1.0])["std"] is None


def test_memory_and_time_come_from_the_reports(plan: Plan) -> None:
    row = compared(plan, outcomes(plan))["optimizers"][1]
    assert row["optimizer_state"] == {"elements": 2**27, "bytes": 2**29, "megabytes": 512.0}
    assert row["gradient_memory"]["megabytes"] == row["parameter_memory"]["megabytes"] == 256.0
    assert row["peak_memory_mb"] == 1002.0
    assert row["seconds_per_step"] == 2.0
    assert row["metrics"]["test/f1"]["values"] == pytest.approx([0.8011, 0.8021])


def test_a_failed_seed_is_not_in_the_mean_and_its_reason_is_kept(plan: Plan) -> None:
    runs = outcomes(plan)
    runs[1] = Outcome(runs[1].trial, None, "it diverged", 1, folder=runs[1].trial.folder)
    row = compared(plan, runs)["optimizers"][0]
    assert row["metrics"]["test/f1"]["n"] == 1
    assert [run["reason"] for run in row["runs"]] == ["", "it diverged"]


def test_equal_initial_weights_are_a_remark(plan: Plan) -> None:
    result = compared(plan, outcomes(plan))
    assert result["same_initial_weights"] == {"1": True, "2": True}
    assert any("started from the same weights" in remark for remark in result["remarks"])


def test_reports_without_fingerprints_do_not_count_as_equal(plan: Plan) -> None:
    result = compared(plan, outcomes(plan, fingerprint={}))
    assert result["same_initial_weights"] == {"1": None, "2": None}
    assert any("not every report has a fingerprint" in remark for remark in result["remarks"])


@pytest.mark.parametrize(
    ("key", "other", "what"),
    [("device", "Another, 8 threads", "devices"), ("versions", {"torch": "2.8"}, "versions of the libraries")],
)
def test_different_environments_are_a_warning(plan: Plan, key: str, other: Any, what: str) -> None:
    runs = outcomes(plan)
    assert runs[0].report is not None
    runs[0].report[key] = other
    result = compared(plan, runs)
    assert result["remarks"][0].startswith(f"WARNING: the runs have different {what}")


@pytest.mark.parametrize(
    ("key", "same", "other", "what"),
    [
        ("code_sha256", "1" * 64, "2" * 64, "versions of this repository's code"),
        ("assets", {"mine.csv": "1" * 64}, {"mine.csv": "2" * 64}, "data or weights"),
    ],
)
def test_changed_code_or_data_are_a_warning(plan: Plan, key: str, same: Any, other: Any, what: str) -> None:
    runs = outcomes(plan)
    for run in runs:
        assert run.report is not None
        run.report["provenance"] = {key: same}
    assert not any("WARNING" in remark for remark in compared(plan, runs)["remarks"])

    assert runs[0].report is not None
    runs[0].report["provenance"] = {key: other}
    assert compared(plan, runs)["remarks"][0].startswith(f"WARNING: the runs have different {what}")


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"accelerator": None, "cuda": None}, "resident memory of the process"),
        ({"accelerator": "NVIDIA H100", "cuda": "13.0"}, "CUDA tensors"),
    ],
)
def test_the_result_says_what_peak_memory_means(plan: Plan, machine: dict[str, Any], words: str) -> None:
    assert compared(plan, outcomes(plan, provenance={"machine": machine}))["peak_memory_is"] == words
