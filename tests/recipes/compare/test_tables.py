"""The tables of a comparison are readable on a terminal, in a pipe and as Markdown."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recipes.compare.command import plan_of
from recipes.compare.results import comparison
from recipes.compare.runs import Outcome
from recipes.compare.tables import markdown, print_table
from tests.recipes.fake_fit import a_report


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    """Two optimizers, of which one failed."""
    (tmp_path / "some.yaml").write_text("data: {}\n", encoding="utf-8")
    config = str(tmp_path / "some.yaml")
    plan = plan_of(
        ["--config", config, "--optimizers", "adafactor", "adamw", "--sweep-lr", "1e-4", "3e-4", "--out", "x"]
    )
    good, bad = plan.choices
    outcomes = [
        Outcome(trial, a_report("adafactor", trial.rate or 0), folder=trial.folder) for trial in plan.first_trials(good)
    ]
    outcomes += [Outcome(trial, None, "a | b\nc", 1, folder=trial.folder) for trial in plan.first_trials(bad)]
    return comparison(plan, outcomes, {"adafactor": 3e-4}, "the command")


def printed(result: dict[str, Any], width: int, terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    print_table(result, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_optimizers_are_rows_if_they_fit(result: dict[str, Any]) -> None:
    lines = printed(result, 200, True).splitlines()
    assert any(line.startswith("│ adafactor") and "0.50" in line for line in lines)
    assert any(line.startswith("│ adamw") and "failed" in line for line in lines)


def test_optimizers_are_columns_on_a_narrow_terminal(result: dict[str, Any]) -> None:
    said = printed(result, 80, True)
    assert "…" not in said
    assert any(line.startswith("│ state, MB") and "0.50" in line for line in said.splitlines())


def test_a_pipe_gets_complete_rows_of_any_width(result: dict[str, Any]) -> None:
    said = printed(result, 80, False)
    assert "…" not in said
    assert any(line.startswith("│ adafactor") and "131,072" in line for line in said.splitlines())


def test_markdown_has_the_sweep_every_run_and_each_reason(result: dict[str, Any]) -> None:
    text = markdown(result)
    assert "| adafactor | 0.0003 | 0.8000 | chosen |" in text
    assert "| adamw | 0.0001 | – | a \\| b c |" in text
    assert "failed: a \\| b c |" in text
    assert "AdamW's state for this model: 134,217,728 elements, 512.00 MB." in text
    widths = {line.replace("\\|", "").count("|") for line in text.split("\n\n")[2].splitlines()}
    assert len(widths) == 1
