"""Errors whose cause is known end with a sentence that names it: a full disk, a folder that is gone, a misfit."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger

from recipes.cli.known_errors import known_error
from recipes.cli.main import main
from recipes.recipe import Recipe
from recipes.runs.config import RecordConfig


@pytest.fixture(autouse=True)
def _classifier(tiny_recipe: Path, tiny_model: Path, wires: pandas.DataFrame) -> None:
    """Every test starts in a working folder with ``cls.yaml``: two epochs of three steps, and a test."""
    wires.to_csv("wires.csv", index=False)
    fields = {"train": "wires.csv", "text": "headline", "label": "desk", "validation": 0.2, "test": 0.2}
    settings = {
        "trainer": {"accelerator": "cpu", "max_epochs": 2, "enable_model_summary": False, "log_every_n_steps": 1},
        "model": {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model)}},
        "data": {
            "class_path": "recipes.TextClassificationData",
            "init_args": {**fields, "max_length": 16, "batch_size": 24},
        },
    }
    Path("own.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def run(capsys: pytest.CaptureFixture[str], command: str, *options: str) -> tuple[int, str]:
    """Runs a command; returns its exit status and its error message, which is one line without a traceback."""
    capsys.readouterr()
    status = main([command, "--config", "own.yaml", *options])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == (status != 0)
    return status, errors[0] if errors else said


# A full disk


def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def on_call(number: int, before: Any) -> Any:
    """A function that works until its call of that number, and finds the disk full then."""
    calls = iter(range(1, 100))
    return lambda *args, **kwargs: full() if next(calls) >= number else before(*args, **kwargs)


REPORT = r"writing the report failed.*then resume with --ckpt_path .*last\.ckpt$"
WRITTEN = {
    "config.yaml": (RecordConfig, "save_config", 1, r"^error: setting up the run failed.*free some space$"),
    "metrics.csv": (CSVLogger, "save", 1, r"^error: writing metrics\.csv failed.*free some space$"),
    "the first checkpoint": (torch, "save", 1, r"^error: saving a checkpoint after step 3 failed.*free some space$"),
    "the second checkpoint": (
        torch,
        "save",
        2,
        r"after step 3 failed.*free some space; then resume with --ckpt_path runs/own/version_0$",
    ),
    "the last checkpoint": (torch, "save", 3, r"after step 6 failed.*then resume with --ckpt_path .*last\.ckpt$"),
    "the model": (
        Recipe,
        "save_pretrained",
        1,
        REPORT,
    ),
    "the report": (
        "recipes.cli.finish",
        "_write_whole",
        1,
        REPORT,
    ),
    "the chart": ("recipes.cli.finish", "draw", 1, REPORT),
}


def run_on_a_full_disk(what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs ``fit``, with the disk full from a moment on; returns the error message, after checking it."""
    owner, name, number, answer = WRITTEN[what]
    with monkeypatch.context() as patched:
        if isinstance(owner, str):
            patched.setattr(f"{owner}.{name}", full)
        else:
            patched.setattr(owner, name, on_call(number, getattr(owner, name)))
        status, said = run(capsys, "fit")
    assert status == 1
    assert "for the disk that runs/own/version_0 is on is full" in said
    assert re.search(answer, said), said
    assert not list(Path("runs").rglob("*.part"))
    return said


@pytest.mark.parametrize(
    "what",
    [
        "config.yaml",
        "the model",
        "the last checkpoint",
        *(pytest.param(what, marks=pytest.mark.slow) for what in ("metrics.csv", "the first checkpoint", "the report")),
        pytest.param("the chart", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_ends_the_run(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on_a_full_disk(what, capsys, monkeypatch)


@pytest.mark.parametrize(
    "what",
    [
        "the second checkpoint",  # resumed from the run's folder
        pytest.param("metrics.csv", marks=pytest.mark.slow),  # nothing to resume from
        pytest.param("the model", marks=pytest.mark.slow),  # resumed from a checkpoint
    ],
)
def test_once_there_is_space_a_run_goes_on_as_its_message_says(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run_on_a_full_disk(what, capsys, monkeypatch)
    options = re.findall(r"(--ckpt_path) (\S+)$", said)
    assert run(capsys, "fit", *(options[0] if options else []))[0] == 0
    assert Path("runs/own/version_1/report.json").is_file()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_way_to_say_that_the_disk_is_full_is_known(error: Exception, wrapped: bool) -> None:
    shown: Exception = error
    if wrapped:  # as torch.save does with what its file raises
        shown = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        shown.__context__ = error
    told = known_error(shown, "training step 1", None, {}, Path("runs"), "")
    assert str(told) == "training step 1 failed, for the disk that runs is on is full: free some space"


# The folder of the run is gone


@pytest.mark.parametrize(
    "hook",
    [
        "setup",
        "on_train_batch_end",
        "on_train_end",
        *(pytest.param(hook, marks=pytest.mark.slow) for hook in ("on_fit_start", "on_train_epoch_end")),
    ],
)
def test_a_run_whose_folder_is_removed_says_so(hook: str, capsys: pytest.CaptureFixture[str]) -> None:
    removing = ["--trainer.callbacks", "raising.Remover", "--trainer.callbacks.hook", hook]
    status, said = run(capsys, "fit", *removing, "--trainer.num_sanity_val_steps", "0")
    assert status == 1
    assert "failed, for the run's folder runs/own/version_0 has been removed or moved during the run" in said
    assert not Path("runs/own/version_0").exists()


# Settings that do not fit together

SETTINGS = {
    "EarlyStopping --trainer.callbacks.monitor val_f1": (
        r"trainer\.callbacks.*monitor is 'val_f1', and no metric of that name is logged: use one of .*`val/f1`"
    ),
    "BackboneFinetuning": r"trainer\.callbacks.*the attribute `backbone` of the model, and TextClassifier has none",
    "StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1": r"StochasticWeightAveraging copies the model before",
    "LearningRateFinder": r"trainer\.callbacks.*the learning rate is an argument of the optimizer.*--sweep-lr",
}


@pytest.mark.parametrize("words", SETTINGS)
def test_a_callback_that_does_not_fit_the_model_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "fit", "--trainer.callbacks", *words.split())
    assert status == 2
    assert re.search(SETTINGS[words], said), said


TRAINER = {
    "val_check_interval 1000": r"trainer\.val_check_interval is 1000, and an epoch has 3 batches: lower it",
    "val_check_interval 0": r"trainer\.val_check_interval is 0: expected a number above 0",
    "check_val_every_n_epoch 0": r"trainer\.check_val_every_n_epoch is 0: expected a number above 0",
    "accumulate_grad_batches 0": r"trainer\.accumulate_grad_batches is 0: expected a number above 0",
    "overfit_batches 2": r"trainer\.overfit_batches is 2, which recipes do not support: set trainer\.limit_train",
    "strategy ddp_spawn": r"trainer\.strategy is 'ddp_spawn', which .*: use ddp",
}


@pytest.mark.parametrize("words", TRAINER)
def test_a_setting_of_the_trainer_that_does_not_work_is_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    name, value = words.split()
    status, said = run(capsys, "fit", f"--trainer.{name}", value)
    assert status == 2
    assert re.search(TRAINER[words], said), said


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["torch.optim.SparseAdam"], "SparseAdam does not support dense gradients"),
        (["torch.optim.AdamW", "--model.optimizer.capturable", "true"], "capturable=True"),
        (["torch.optim.LBFGS"], "LBFGS doesn't support per-parameter options"),
        (["torch.optim.AdamW", "--model.optimizer.lr", "-1"], "Invalid learning rate: -1"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused(
    options: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run(capsys, "fit", "--model.optimizer", *options)
    assert status == 2
    assert "model.optimizer" in said
    assert answer in said


# What works


def test_a_recipe_trains_without_validation_and_goes_on_from_within_an_epoch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    without = ["--data.validation", "null"]
    assert run(capsys, "fit", *without, "--data.test", "null", "--trainer.max_steps", "2")[0] == 0
    assert Path("runs/own/version_0/report.json").is_file()
    assert run(capsys, "fit", *without, "--data.test", "null", "--ckpt_path", "last")[0] == 0
    last = torch.load("runs/own/version_1/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 10
    status, said = run(capsys, "validate", *without)
    assert status == 2
    assert "data.validation is null, so there is nothing to validate on" in said


@pytest.mark.slow
def test_a_recipe_is_tested_without_validation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "fit", "--data.validation", "null")[0] == 0
    assert "test/f1" in json.loads(Path("runs/own/version_0/report.json").read_text(encoding="utf-8"))["metrics"]


def test_an_optimizer_that_computes_its_own_rate_trains(capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--model.optimizer.relative_step", "true", "--model.optimizer.warmup_init", "true"]
    optimizer = ["--model.optimizer", "lightning_adafactor.TransformersAdafactor", "--model.optimizer.lr", "null", *own]
    once = ["--trainer.max_epochs", "1", "--data.test", "null"]
    assert run(capsys, "fit", *optimizer, "--model.schedule", "null", *once)[0] == 0


STATES = """
import numpy, torch

class Slots:
    __slots__ = ("mean",)

class Odd(torch.optim.Optimizer):
    def __init__(self, params, kind: str, lr: float = 0.1):
        super().__init__(params, {"lr": lr, "kind": kind})

    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if p.grad is None:
                    continue
                if not state:
                    state["mean"] = Slots() if group["kind"] == "slots" else numpy.zeros(p.shape, numpy.float32)
                    if group["kind"] == "slots":
                        state["mean"].mean = torch.zeros_like(p)
                if group["kind"] == "slots":
                    p.data -= group["lr"] * state["mean"].mean.add_(p.grad)
                else:
                    state["mean"] += p.grad.numpy()
                    p.data -= group["lr"] * torch.from_numpy(state["mean"])
        return loss
"""


@pytest.mark.parametrize(("kind", "what"), [("numpy", "numpy.ndarray"), ("slots", "odd_slots.Slots")])
def test_an_optimizer_whose_state_is_no_tensors_trains_and_says_that_it_cannot_be_resumed(
    kind: str, what: str, tiny_recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny_recipe / f"odd_{kind}.py").write_text(STATES, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tiny_recipe))
    odd = ["--model.optimizer", f"odd_{kind}.Odd", "--model.optimizer.kind", kind, "--data.test", "null"]
    status, said = run(capsys, "fit", *odd)
    assert status == 0
    assert said.count(f"the optimizer's state is not saved, because it holds state[0].state.mean: {what}, and") == 1
    status, said = run(capsys, "fit", *odd, "--ckpt_path", "last")
    assert status == 2
    assert "no optimizer_states, so no training can resume from it" in said
