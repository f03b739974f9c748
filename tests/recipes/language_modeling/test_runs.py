"""Whole runs of a language model: their reports, repeated, resumed, and in two processes."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from recipes import LanguageModel
from recipes.cli.main import main
from tests.recipes.language_modeling.trainings import data_of, trainer


def command(tiny_lm: Path, tales_csv: Path, *more: str) -> list[str]:
    """The command line of a small run of lm.yaml."""
    return [
        "fit",
        "--config=lm.yaml",
        f"--model.pretrained={tiny_lm}",
        f"--data.train={tales_csv}",
        "--data.validation=0.2",
        "--data.test=0.1",
        "--data.block_size=32",
        "--model.sample_tokens=5",
        "--trainer.accelerator=cpu",
        "--trainer.precision=32-true",
        "--trainer.val_check_interval=2",
        "--trainer.log_every_n_steps=1",
        *more,
    ]


def fit(tiny_lm: Path, tales_csv: Path, *more: str) -> int:
    return main(command(tiny_lm, tales_csv, *more))


@pytest.mark.parametrize("limit", [{"max_epochs": 2}, {"max_steps": 20}], ids=str)
def test_a_run_resumed_within_an_epoch_ends_where_an_uninterrupted_one_does(
    tiny_lm: Path, tales_csv: Path, tmp_path: Path, limit: dict
) -> None:
    def run(name: str, **arguments: Any) -> LanguageModel:
        seed_everything(3, verbose=False)
        module = LanguageModel(str(tiny_lm), schedule="constant")
        callbacks = [ModelCheckpoint(tmp_path / name, save_top_k=-1, every_n_train_steps=3)]
        settings = {"max_steps": -1, "limit_train_batches": 7, "enable_checkpointing": True, "callbacks": callbacks}
        trainer(**settings | limit).fit(module, data_of(tales_csv), weights_only=True, **arguments)
        return module

    uninterrupted = run("uninterrupted")
    [interrupted] = (tmp_path / "uninterrupted").glob("*step=3.ckpt")
    resumed = run("resumed", ckpt_path=interrupted)

    for name, parameter in uninterrupted.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], parameter, msg=name)


FOUR_STEPS = "--trainer.limit_train_batches=4"


@pytest.fixture
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tiny_lm: Path, tales_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``runs`` after four steps of lm.yaml, trained once for all tests."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RUNS_DIR", raising=False)
        assert fit(tiny_lm, tales_csv, FOUR_STEPS) == 0
    return folder / "runs"


@pytest.fixture
def first_run(trained: Path, working_folder: Path) -> Path:
    """The folder of the run of four steps: a copy, as if it had been trained in the working folder."""
    shutil.copytree(trained, working_folder / "runs")
    return Path("runs/lm/version_0")


def test_a_run_reports_what_was_before_and_a_resumed_one_remembers_it(
    tiny_lm: Path, tales_csv: Path, first_run: Path
) -> None:
    first = json.loads((first_run / "report.json").read_text(encoding="utf-8"))
    kept = [f"--ckpt_path={first_run}", FOUR_STEPS, "--trainer.max_epochs=2"]
    assert fit(tiny_lm, tales_csv, *kept, "--model.sample_tokens=5000") == 2  # told before the training
    assert not Path("runs/lm/version_1/metrics.csv").exists()
    shutil.rmtree("runs/lm/version_1")
    assert fit(tiny_lm, tales_csv, *kept) == 0
    second = json.loads(Path("runs/lm/version_1/report.json").read_text(encoding="utf-8"))

    assert first["monitor"] == {"name": "val/loss", "mode": "min"}
    assert first["before"].keys() == first["metrics"].keys()
    assert first["before"]["val/loss"] != first["metrics"]["val/loss"]
    for name in ("val", "test"):
        assert first["metrics"][f"{name}/perplexity"] == pytest.approx(math.exp(first["metrics"][f"{name}/loss"]))
    assert [sample.keys() for sample in first["samples"]] == [{"prompt", "before", "after"}] * 2
    assert all(isinstance(sample["before"], str) for sample in first["samples"])
    assert first["tokens"].keys() == {"train", "dropped", "validation", "test"}
    assert first["tokens_per_second"] > 0
    assert second["steps"] == 8
    assert second["before"] == first["before"]
    assert [sample["before"] for sample in second["samples"]] == [sample["before"] for sample in first["samples"]]


def test_a_checkpoint_of_another_model_is_reported_in_a_sentence(
    tiny_lm: Path, tales_csv: Path, first_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint,) = (first_run / "checkpoints").glob("[!l]*.ckpt")
    shape = "--model.architecture={intermediate_size: 48}"

    assert fit(tiny_lm, tales_csv, FOUR_STEPS, "--trainer.max_epochs=2", shape, f"--ckpt_path={checkpoint}") == 2
    error = capsys.readouterr().err
    assert "error: --ckpt_path: the checkpoint's weights are not those of this model (size mismatch for model." in error


@pytest.mark.usefixtures("first_run")
def test_metrics_of_a_repeated_run_are_the_same_byte_for_byte(tiny_lm: Path, tales_csv: Path) -> None:
    assert fit(tiny_lm, tales_csv, FOUR_STEPS) == 0

    files = [Path(f"runs/lm/version_{i}/metrics.csv").read_bytes() for i in range(2)]
    assert b"train/loss" in files[0]
    assert files[0] == files[1]


@pytest.mark.slow
def test_two_processes_train_as_one_and_leave_one_report(tiny_lm: Path, tales_csv: Path, working_folder: Path) -> None:
    few = ["--data.batch_size=2", "--trainer.limit_train_batches=4", "--threads=1"]
    assert fit(tiny_lm, tales_csv, *few, "--data.batch_size=4") == 0
    both = command(tiny_lm, tales_csv, *few, "--trainer.devices=2", "--trainer.strategy=ddp")
    done = subprocess.run(
        [sys.executable, "-m", "recipes", *both],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]

    alone, shared = (json.loads(Path(f"runs/lm/version_{i}/report.json").read_text(encoding="utf-8")) for i in range(2))
    assert shared["steps"] == alone["steps"] == 4
    assert shared["tokens"] == alone["tokens"]
    assert shared["before"] == pytest.approx(alone["before"], rel=1e-5)
    assert len(shared["samples"]) == 2
