"""The comparison of trainings in bfloat16: its commands, and the table of the reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import bf16_training


def report(perplexity: float | None) -> dict[str, object]:
    metrics = {"val/perplexity": None if perplexity is None else perplexity + 1, "test/perplexity": perplexity}
    return {
        "steps": 8,
        "metrics": metrics,
        "seconds_per_step": 2.5,
        "peak_memory_mb": 1234.5,
        "device": "a CPU",
        "seed": 42,
    }


def test_each_variant_differs_in_its_own_settings_alone() -> None:
    words = {name: bf16_training.command("lm.yaml", name, ["--x", "1"], 5) for name in bf16_training.VARIANTS}

    assert all(command[1:5] == ["-m", "recipes.fit", "--config", "lm.yaml"] for command in words.values())
    assert all(command[-4:] == ["--trainer.limit_train_batches", "5", "--x", "1"] for command in words.values())
    assert "--model.init_args.optimizer.init_args.eps" in words["bfloat16, stochastic rounding, torch's ε₁"]
    assert len({" ".join(command) for command in words.values()}) == 4


def test_table_compares_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    lines = bf16_training.table({"float32": report(20.0), "bfloat16": report(21.0)}).splitlines()

    assert lines[2] == "| float32 | 8 | 21.00 | 20.00 | 1.000 | 2.50 | 1,234 |"
    assert lines[3] == "| bfloat16 | 8 | 22.00 | 21.00 | 1.050 | 2.50 | 1,234 |"


def test_table_shows_a_dash_for_perplexities_that_are_not_finite() -> None:
    lines = bf16_training.table({"float32": report(None), "bfloat16": report(21.0)}).splitlines()

    assert lines[2] == "| float32 | 8 | – | – | – | 2.50 | 1,234 |"
    assert lines[3] == "| bfloat16 | 8 | 22.00 | 21.00 | – | 2.50 | 1,234 |"


def test_table_is_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bf16_training, "train", lambda words, folder: report(20.0))
    output = tmp_path / "table.md"

    assert bf16_training.main(["--short", "--output", str(output)]) == 0
    assert output.read_text() in capsys.readouterr().out
    assert "`python -m benchmarks.bf16_training --short" in output.read_text()


def test_failing_training_ends_the_comparison_with_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    monkeypatch.setattr(bf16_training, "command", lambda *_: failing)

    assert bf16_training.main([]) == 1
    assert "no such model" in capsys.readouterr().err


def test_report_of_the_run_is_read(tmp_path: Path) -> None:
    script = (
        "import os, pathlib\n"
        "folder = pathlib.Path(os.environ['RUNS_DIR'], 'lm', 'version_0')\n"
        "folder.mkdir(parents=True)\n"
        f"(folder / 'report.json').write_text({json.dumps(json.dumps(report(3.0)))})"
    )

    assert bf16_training.train([sys.executable, "-c", script], tmp_path)["metrics"]["test/perplexity"] == 3.0
