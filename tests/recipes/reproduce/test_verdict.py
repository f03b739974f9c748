"""The verdict on two runs: identical, equal within a tolerance, or different, and from which step."""

import copy
import math
from pathlib import Path

import pytest

from recipes.reproduce.verdict import compare, read_metrics, relative_difference
from recipes.runs.fingerprint import metrics_sha256

REPORT = {
    "steps": 4,
    "metrics": {"val/loss": 0.5, "test/loss": 0.6},
    "fingerprint": {"weights": "a" * 64, "initial_weights": "i" * 64, "metrics": "m" * 64},
    "history": {"losses": [[2, 1.0, 0.1], [4, 0.8, 0.2]], "evaluations": [[4, {"val/loss": 0.5}]]},
}


def other(**changes: float | None) -> dict:
    """The report of a run whose bits, and these losses, are different."""
    report = copy.deepcopy(REPORT)
    report["fingerprint"] |= {"weights": "b" * 64, "metrics": "n" * 64}
    for entry in report["history"]["losses"]:
        entry[1] = changes.get(f"loss_{entry[0]}", entry[1])
    report["metrics"]["test/loss"] = changes.get("test", 0.6)
    return report


def verdict(
    tmp_path: Path, report: dict, tolerance: float = 1e-3, csv_of_first: str | None = "m" * 64
) -> tuple[bool, str]:
    recorded = {**REPORT, "fingerprint": {**REPORT["fingerprint"], "metrics": csv_of_first}}
    found = compare(tmp_path / "first", recorded, tmp_path / "second", report, tolerance)
    return found.same, found.message


def test_the_same_bits_are_identical(tmp_path: Path) -> None:
    same, message = verdict(tmp_path, copy.deepcopy(REPORT), tolerance=0)

    assert same
    assert message.startswith("identical: weights aaaaaaaaaaaa...")


def test_other_bits_and_close_values_are_equal_within_the_tolerance(tmp_path: Path) -> None:
    same, message = verdict(tmp_path, other(loss_4=0.8004))

    assert same
    assert message.startswith("equal within 0.001: not the same bits (weights, metrics)")
    assert "5.0e-04" in message


def test_a_difference_is_reported_with_its_first_step(tmp_path: Path) -> None:
    same, message = verdict(tmp_path, other(loss_2=1.1, loss_4=0.9, test=0.7))

    assert not same
    assert message.startswith("different from step 2:")
    assert "train/loss was 1 and is 1.1; 3 of 4 metrics differ" in message


def test_a_run_that_ended_earlier_is_different(tmp_path: Path) -> None:
    report = other()
    report["history"]["losses"].pop()

    same, message = verdict(tmp_path, report)

    assert not same
    assert "only the recorded run has train/loss of step 4" in message


def test_a_loss_that_is_null_in_one_report_is_a_difference(tmp_path: Path) -> None:
    same, message = verdict(tmp_path, other(loss_4=None))

    assert not same
    assert message.startswith("different from step 4:")
    assert "train/loss was 0.8 and is nan" in message


def test_a_loss_that_is_null_in_both_reports_is_the_same(tmp_path: Path) -> None:
    recorded, again = other(loss_4=None), other(loss_4=None)
    recorded["fingerprint"] = REPORT["fingerprint"]

    assert compare(tmp_path / "first", recorded, tmp_path / "second", again, 0).same


def write_csv_files(tmp_path: Path) -> None:
    for run, loss in (("first", "0.25"), ("second", "0.5")):
        (tmp_path / run).mkdir()
        (tmp_path / run / "metrics.csv").write_text(
            f"epoch,step,train/loss,lr\n0,7,{loss},\n,8,,0.1\n", encoding="utf-8"
        )


def test_the_csv_files_are_compared_if_both_exist(tmp_path: Path) -> None:
    write_csv_files(tmp_path)

    same, message = verdict(tmp_path, other(), csv_of_first=metrics_sha256(tmp_path / "first"))

    assert not same
    assert message.startswith("different from step 7:")
    assert read_metrics(tmp_path / "first" / "metrics.csv") == {(7, "train/loss"): 0.25, (8, "lr"): 0.1}


def test_a_changed_csv_file_is_not_compared(tmp_path: Path) -> None:
    write_csv_files(tmp_path)

    same, message = verdict(tmp_path, other())

    assert same
    assert message.startswith("equal within 0.001")


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [(1.0, 1.0, 0), (0.0, 0.0, 0), (math.nan, math.nan, 0), (math.nan, 1.0, math.inf), (2.0, -2.0, 2), (0.0, 1e-9, 1)],
)
def test_differences_are_relative_to_the_larger_value(a: float, b: float, difference: float) -> None:
    assert relative_difference(a, b) == relative_difference(b, a) == difference
