"""A run does not depend on the order in which Python iterates over sets, which PYTHONHASHSEED changes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import yaml

REPOSITORY = Path(__file__).parents[3]


def fit(folder: Path, hash_seed: int, *options: str) -> dict:
    """The report of a run in a process of its own."""
    folder.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "recipes", "fit", *options],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(next(folder.rglob("report.json")).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_a_run_is_the_same_under_another_hash_seed(
    kind: str, tiny_model: Path, wires: pandas.DataFrame, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    names = {"fruit": "1", "metal": "01", "tool": "+1"}
    wires.assign(desk=wires.desk.map(names)).to_csv(tmp_path / "wires.csv", index=False)
    model = {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model)}}
    data = {
        "class_path": "recipes.TextClassificationData",
        "init_args": {"train": str(tmp_path / "wires.csv"), "text": "headline", "label": "desk", "max_length": 16},
    }
    if kind == "language model":
        model = {"class_path": "recipes.LanguageModel", "init_args": {"pretrained": str(tiny_lm)}}
        data = {
            "class_path": "recipes.LanguageModelingData",
            "init_args": {"train": str(tales_csv), "text": "Content", "block_size": 16},
        }
    data["init_args"] |= {"validation": 0.2, "test": 0.1, "batch_size": 8}
    trainer = {"accelerator": "cpu", "max_steps": 6, "enable_model_summary": False, "log_every_n_steps": 1}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"trainer": trainer, "model": model, "data": data}))

    reports = [fit(tmp_path / str(seed), seed, "--config", str(tmp_path / "own.yaml")) for seed in (1, 2)]

    assert reports[0]["fingerprint"] == reports[1]["fingerprint"]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    assert reports[0]["data"] == reports[1]["data"]
