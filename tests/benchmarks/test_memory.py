"""The memory benchmark keeps what it has measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import in_order, measured_before
from benchmarks.training_memory import MODES

REPORT: dict[str, Any] = {"layers": 30, "rows": 4, "tokens": 128, "environment": {"device": "Some CPU"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A report with one mode."""
    file = tmp_path / "memory.json"
    file.write_text(json.dumps({**REPORT, "modes": [{"name": "Adafactor"}]}))
    return file


def test_modes_of_the_same_setting_are_kept(file: Path) -> None:
    assert measured_before(file, REPORT) == [{"name": "Adafactor"}]


@pytest.mark.parametrize("changed", [{"layers": 2}, {"rows": 1}, {"tokens": 64}, {"environment": {"device": "Other"}}])
def test_modes_of_another_setting_or_device_are_measured_again(file: Path, changed: dict[str, Any]) -> None:
    assert measured_before(file, {**REPORT, **changed}) == []


def test_nothing_is_kept_without_an_earlier_report(tmp_path: Path) -> None:
    assert measured_before(tmp_path / "memory.json", REPORT) == []


def test_modes_that_are_measured_later_stand_in_their_place() -> None:
    names = [mode.name for mode in MODES]
    assert [mode["name"] for mode in in_order([{"name": name} for name in reversed(names)])] == names
