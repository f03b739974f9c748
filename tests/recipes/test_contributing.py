"""The task shown in CONTRIBUTING.md is complete: every command works with exactly that code."""

import json
import os
import random
import re
from pathlib import Path

import pandas
import pytest

from recipes.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
CODE = re.compile(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def task(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of every fit, in a working folder with the files from CONTRIBUTING.md and one review per row."""
    files = dict(CODE.findall(CONTRIBUTING.read_text(encoding="utf-8")))
    assert set(files) == {"regression.py", "regression_data.py", "regression.yaml"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    generator = random.Random(0)
    words = {"apple": 5.0, "iron": 1.0}
    rows = [generator.choice(list(words)) for _ in range(60)]
    pandas.DataFrame({"review": rows, "stars": [words[word] for word in rows]}).to_csv(
        tmp_path / "films.csv", index=False
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    # for the processes that compare and reproduce start
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.delenv("RUNS_DIR", raising=False)
    return [
        "--config",
        "regression.yaml",
        f"--model.pretrained={tiny_model}",
        "--data.max_length=16",
        "--trainer.accelerator=cpu",
    ]


def report(run: int) -> dict:
    return json.loads(Path(f"runs/regression/version_{run}/report.json").read_text(encoding="utf-8"))


def test_the_task_in_contributing_is_fitted_resumed_and_reported(task: list[str]) -> None:
    rate = "--model.optimizer.lr=0.01"

    assert main(["fit", *task, rate]) == 0
    assert main(["fit", *task, rate, "--trainer.max_epochs=4", "--ckpt_path=last"]) == 0

    first, second = report(0), report(1)
    assert first["steps"] == 2 * 6
    assert second["steps"] == 4 * 6
    assert second["metrics"]["test/loss"] < first["metrics"]["test/loss"]
    assert (Path("runs/regression/version_1") / "model" / "config.json").is_file()


def test_the_task_in_contributing_is_estimated(task: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["estimate", *task, "--optimizer", "adafactor", "--json", "estimate.json"]) == 0

    (own,) = (
        row
        for row in json.loads(Path("estimate.json").read_text(encoding="utf-8"))["estimates"]
        if row["own"] and not row["gradient_release"] and row["dtype"] == "float32"
    )
    assert own["total_bytes"] > own["parameter_memory"]["bytes"] > 0


@pytest.mark.slow
def test_the_task_in_contributing_is_compared_and_reproduced(task: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["fit", *task]) == 0
    assert main(["reproduce", "runs/regression/version_0"]) == 0
    assert "identical" in capsys.readouterr().out

    words = ["--optimizers", "adafactor", "adamw", "--timing-rounds", "0"]
    assert main(["compare", *task, *words]) == 0
    rows = json.loads(Path("runs/compare-regression/comparison.json").read_text(encoding="utf-8"))["optimizers"]
    assert [row["metrics"]["test/loss"]["n"] for row in rows] == [1, 1]
