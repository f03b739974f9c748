"""Runs that fail, are stopped or have metrics that are not finite: each says so, and the comparison goes on."""

from pathlib import Path

import pytest

from tests.recipes.compare.commands import calls, compare, comparison, recipe, row


def table() -> str:
    return Path("runs/compare-some/comparison.md").read_text(encoding="utf-8")


def test_an_optimizer_that_fails_in_its_timing_run_is_a_row_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe(fails_timing={"adamw": 2})
    assert compare("adafactor", "adamw", timing_rounds=1) == 0
    assert row("adamw")["failed_timing"] == ["a sentence that says why"]
    assert "failed: a sentence that says why" in table()
    assert "adamw, timing run did not finish: a sentence that says why" in capsys.readouterr().out


def test_time_without_a_timing_run_is_not_compared_with_that_of_timing_runs(folder: Path) -> None:
    recipe(fails_timing={"adamw": 1})
    assert compare("adafactor", "adamw", timing_rounds=1) == 0
    assert row("adamw")["seconds_per_step"] is not None
    assert "- WARNING: adamw's timing runs did not finish" in table()


def test_timing_runs_that_succeeded_are_no_reason(folder: Path, capsys: pytest.CaptureFixture) -> None:
    recipe(fails={"adamw": 2})
    assert compare("adamw", timing_rounds=1) == 2
    assert "error: no run finished: a sentence that says why (logs" in capsys.readouterr().err


def test_a_test_metric_that_is_not_finite_is_in_no_median_and_no_pair(folder: Path) -> None:
    recipe(not_finite={"adamw": ["test/f1"]})
    assert compare("adafactor", "adamw", "--seeds", "1", "2") == 0
    assert "test/f1" not in row("adamw")["metrics"]
    assert row("adamw")["metrics"]["test/accuracy"]["n"] == 2
    assert comparison()["pairs"] == []


def test_a_sweep_whose_metric_is_never_finite_chooses_nothing_and_says_why(folder: Path) -> None:
    recipe(not_finite={"adamw": ["val/f1"]})
    rates = ["--sweep-lr", "1e-4", "3e-4", "--seeds", "1", "2"]
    assert compare("adafactor", "adamw", *rates, widen=0) == 0
    assert [run["seed"] for run in row("adamw")["runs"]] == [1, 1]
    assert [run["seed"] for run in row("adafactor")["runs"]] == [1, 1, 2]
    assert "failed: val/f1 is NaN or infinite" in table()

    calls()
    assert compare("adafactor", "adamw", *rates, widen=0) == 0
    assert calls() == []


def test_a_run_stopped_as_hopeless_is_trained_to_its_end_on_request(folder: Path) -> None:
    rates = ["--sweep-lr", "3e-5", "3e-4", "3e-3"]
    assert compare("adamw", *rates) == 0
    calls()
    assert compare("adamw", *rates, "--keep-hopeless") == 0
    assert calls() == ["adamw 3e-05 42", "adamw 0.003 42"]


def test_a_run_stopped_as_hopeless_in_a_sweep_is_trained_where_there_is_no_sweep(folder: Path) -> None:
    assert compare("adamw", "--sweep-lr", "x1", "x3", widen=0) == 0
    assert compare("adamw", "--sweep-lr", "x1", "x3", "x30", widen=0) == 0
    assert [run["hopeless"] for run in row("adamw")["runs"]] == [False, False, True]
    calls()
    assert compare("adamw", "--sweep-lr", "x30", "--seeds", "7", "42", widen=0) == 0
    assert calls() == ["adamw 0.003 7", "adamw 0.003 42"]


def test_the_weights_of_a_run_stopped_as_hopeless_are_deleted(folder: Path) -> None:
    assert compare("adamw", "--sweep-lr", "3e-5", "3e-4", "3e-3") == 0
    assert not list(Path("runs").rglob("checkpoints"))
    assert not list(Path("runs").rglob("model"))
