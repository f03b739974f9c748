"""Folders with a recipe, and estimates that several tests read."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from recipes.cli.main import main
from tests.recipes.estimate.commands import (
    CLASSIFIER,
    IN_A_GIGABYTE,
    TRAINER,
    estimate,
    own,
    write_language_model,
)


@pytest.fixture(scope="module")
def usual_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command of ``usual`` ran."""
    return tmp_path_factory.mktemp("usual")


@pytest.fixture(scope="module")
def usual(tiny_model: Path, wires_csv: Path, usual_folder: Path) -> tuple[dict[str, Any], str]:
    """What the command writes and prints for a recipe alone, with a limit that some rows fit into."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(usual_folder)
        Path("tiny-cls.yaml").write_text(
            TRAINER + CLASSIFIER.format(model=tiny_model, wires=wires_csv), encoding="utf-8"
        )
        result = estimate("--config=tiny-cls.yaml", "--gpu-memory=150kB", "--png=estimate.png")
    return result, " ".join(printed.getvalue().split())


@pytest.fixture(scope="module")
def unlimited(usual_folder: Path, usual: tuple[dict[str, Any], str]) -> tuple[dict[str, Any], str]:
    """The same without a GPU and its limit, with a strategy that is not known, and averaged weights."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(usual_folder)
        patch.setattr("torch.cuda.is_available", lambda: False)
        unknown = ["--trainer.strategy=xla", "--trainer.devices=2"]
        unknown += ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging"]
        assert main(["estimate", "--config=tiny-cls.yaml", "--optimizer=adafactor", *unknown, "--json=unlimited"]) == 0
        return json.loads(Path("unlimited").read_text(encoding="utf-8")), " ".join(printed.getvalue().split())


@pytest.fixture
def classifier(tiny_model: Path, wires_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A working folder with a recipe for a tiny BERT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    Path("tiny-cls.yaml").write_text(TRAINER + CLASSIFIER.format(model=tiny_model, wires=wires_csv), encoding="utf-8")
    return "--config=tiny-cls.yaml"


@pytest.fixture
def language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A working folder with a recipe for a tiny GPT-2 trained from scratch, and so is its tokenizer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    return write_language_model()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The row of the language model in one process, with its activations on the GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("kept"))
        return own(estimate(write_language_model(), *IN_A_GIGABYTE))
