"""``--ckpt_path``: runs that are resumed and evaluated."""

from pathlib import Path

import pytest
import torch

from tests.recipes.cli.tiny_runs import run, saved

pytestmark = pytest.mark.usefixtures("tiny_recipe")  # every test starts in a working folder with tiny.yaml


EVALUATED = [
    ("validate", "best"),
    ("test", "runs/tiny/version_0"),
    ("predict", "runs/tiny/version_0/checkpoints/last.ckpt"),
    ("validate", "last"),
]
"""Each command and each way to name a checkpoint; the other pairs are slow tests."""
OTHER_EVALUATED = sorted(
    {(command, checkpoint) for command, _ in EVALUATED for _, checkpoint in EVALUATED} - set(EVALUATED)
)


@pytest.mark.parametrize(
    ("command", "checkpoint"), [*EVALUATED, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHER_EVALUATED)]
)
@pytest.mark.usefixtures("finished_run")
def test_a_finished_run_can_be_evaluated(command: str, checkpoint: str) -> None:
    assert run(command, "--ckpt_path", checkpoint) == 0
    assert saved(1)["ckpt_path"].startswith("runs/tiny/version_0/checkpoints/")


def test_an_evaluation_without_a_checkpoint_says_which_weights_it_uses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("test") == 0
    assert "note: without --ckpt_path the model has the weights that training starts from" in capsys.readouterr().err


@pytest.mark.usefixtures("finished_run")
def test_a_run_resumes_where_the_last_one_ended() -> None:
    assert run("fit", "--ckpt_path", "last", "--trainer.max_epochs", "5") == 0
    assert torch.load("runs/tiny/version_1/checkpoints/last.ckpt", weights_only=True)["global_step"] == 20


@pytest.mark.usefixtures("finished_run")
def test_a_finished_run_that_is_resumed_says_how_to_continue(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--ckpt_path", "last") == 0
    said = capsys.readouterr().err
    assert "note: nothing is left to train: 3 epochs are done; to continue, give --trainer.max_epochs above 3" in said


def test_checkpoints_have_checksums_and_corrupted_ones_are_refused(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run / "checkpoints"
    assert {f"{file.name}.sha256" for file in folder.glob("*.ckpt")} == {file.name for file in folder.glob("*.sha256")}
    last = folder / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    assert run("fit", "--ckpt_path", str(last)) == 2
    assert "last.ckpt: the file is corrupted" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [[], ["--checkpoint.save_weights_only", "true"]])
def test_a_checkpoint_that_cannot_be_resumed_is_a_mistake(
    settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--trainer.max_epochs", "1", *settings) == 0
    best = next(Path("runs/tiny/version_0/checkpoints").glob("epoch*.ckpt"))
    changed = [] if settings else ["--model.optimizer", "torch.optim.AdamW"]
    assert run("fit", "--ckpt_path", str(best), *changed) == 2
    said = capsys.readouterr().err
    assert ("holds the weights only" if settings else "the optimizer is torch.optim.AdamW") in said
    assert "Traceback" not in said


def test_the_best_checkpoint_stays_the_best_in_a_resumed_run() -> None:
    assert run("fit", "--model.optimizer.lr", "0.01") == 0
    best = "runs/tiny/version_0/checkpoints/epoch=2-step=12.ckpt"
    worse = ["--trainer.max_epochs", "5", "--model.optimizer.maximize", "true"]
    assert run("fit", "--ckpt_path", "runs/tiny/version_0", "--model.optimizer.lr", "0.01", *worse) == 0
    callbacks = torch.load("runs/tiny/version_1/checkpoints/last.ckpt", weights_only=True)["callbacks"]
    state = next(state for key, state in callbacks.items() if key.startswith("BestCheckpoint"))
    assert state["best_model_path"] == best
    assert Path(best).is_file()


@pytest.mark.usefixtures("finished_run")
def test_given_arguments_override_the_checkpoint_and_the_difference_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("validate", "--model.rate", "0.5", "--ckpt_path", "last") == 0
    assert "note: model.rate is 0.5 as given; the checkpoint was trained with 0.02" in capsys.readouterr().err
    assert saved(1)["model"]["init_args"]["rate"] == 0.5


@pytest.mark.usefixtures("finished_run")
def test_arguments_that_were_not_given_come_from_the_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", "--ckpt_path", "last") == 0
    assert "note: model.rate is 0.02 as in the checkpoint, since it was not given" in capsys.readouterr().err
    assert saved(1)["model"]["init_args"]["rate"] == 0.02
    assert saved(1)["model"]["init_args"]["width"] == 4
