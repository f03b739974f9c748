"""The page and the picture of measured memory say what was measured, and where the estimate is off."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory_report import draw, estimate_of, markdown

MIB = 2**20


@pytest.fixture
def report() -> dict[str, Any]:
    """Two modes: one estimated within ten percent, one not."""

    def mode(name: str, allocated: int) -> dict[str, Any]:
        estimate = {"parameters": 100 * MIB, "state": 50 * MIB, "gradients": 25 * MIB, "activations": 25 * MIB}
        measured = {"parameter_bytes": 100 * MIB, "state_bytes": 50 * MIB, "allocated_bytes": allocated * MIB}
        return {
            "name": name,
            "command": "python -m benchmarks.memory" + (" --resume" if name == "Adafactor" else ""),
            "estimate": estimate,
            **measured,
            "resident_bytes": None,
            "threads": 2,
            "seconds": 0.5,
            "losses": [10.0, 9.5],
        }

    return {
        "environment": {"device": "Some CPU", "versions": {"torch": "2.13"}, "date": "2026-11-26T00:00"},
        **{"layers": 30, "rows": 4, "tokens": 128},
        "modes": [mode("AdamW", 190), mode("Adafactor", 150)],
    }


def test_an_estimate_is_the_sum_of_its_parts(report: dict[str, Any]) -> None:
    assert estimate_of(report["modes"][0]) == 200 * MIB


def test_each_mode_has_a_row_with_estimate_and_measurement(report: dict[str, Any]) -> None:
    text = markdown(report)
    assert "| AdamW | 100 | 50 | 190 | 200 | 1.05 | – | 2 | 0.50 | 9.5000 |" in text
    assert "| Adafactor | 100 | 50 | 150 | 200 | 1.33 | – | 2 | 0.50 | 9.5000 |" in text


def test_the_page_names_every_command_that_measured_a_mode(report: dict[str, Any]) -> None:
    commands = "`python -m benchmarks.memory` and `python -m benchmarks.memory --resume`"
    assert f"Written by {commands};" in markdown(report)


def test_the_page_names_the_modes_that_are_off(report: dict[str, Any]) -> None:
    assert "More than 10% off: Adafactor." in markdown(report)


def test_the_page_says_that_all_estimates_are_close(report: dict[str, Any]) -> None:
    report["modes"] = report["modes"][:1]
    assert "Each estimate is within 10% of what was allocated." in markdown(report)


def test_the_page_names_the_modes_whose_time_was_disturbed(report: dict[str, Any]) -> None:
    assert "other programs" not in markdown(report)
    report["modes"][1]["busy"] = True
    assert "Measured while other programs ran, so its time says little: Adafactor." in markdown(report)


def test_the_picture_is_written(report: dict[str, Any], tmp_path: Path) -> None:
    draw(report, tmp_path / "memory.png")
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
