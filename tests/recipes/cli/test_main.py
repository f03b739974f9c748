"""How commands end: exit status, what they say, and what a process imports."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recipes.cli.commands import COMMANDS, OWN_COMMANDS
from recipes.cli.main import main
from recipes.cli.parser import RecipeParser
from tests.recipes.cli.tiny_runs import CONFIG, REPOSITORY, module, run

pytestmark = pytest.mark.usefixtures("tiny_recipe")  # every test starts in a working folder with tiny.yaml


# How a run ends


def test_a_nan_loss_ends_the_run_and_keeps_the_good_checkpoint(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("fit", "--model.nan_at", "6") == 1
    said = capsys.readouterr().err
    assert "error: the training loss became NaN or infinite at step 7" in said
    assert "last good checkpoint is runs/tiny/version_0/checkpoints/" in said
    assert "Traceback" not in said
    kept = torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)
    assert kept["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())


@pytest.mark.parametrize("more", [[], ["--trainer.limit_val_batches", "0"]])
def test_weights_corrupted_by_the_only_step_end_the_run(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    huge = ["--model.optimizer.lr", "3e38", "--model.optimizer.weight_decay", "1e3", "--trainer.max_steps", "1", *more]
    assert run("fit", *huge) == 1
    said = capsys.readouterr().err
    assert "became NaN or infinite by step 1, so these weights are not saved" in said
    assert "no checkpoint had been written yet" in said
    assert not list(Path("runs").rglob("*.ckpt"))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts background processes with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_saves_the_last_step_and_says_how_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", "--model.interrupt_at", "6") == 130
    said = capsys.readouterr().err
    assert "interrupted: resume with --ckpt_path runs/tiny/version_0/checkpoints/last.ckpt" in said
    assert "Traceback" not in said
    assert torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run("fit", "--ckpt_path", "last", "--model.interrupt_at", "null") == 0


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_other_signals_stop_a_run_as_ctrl_c_does(
    signum: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", "--model.interrupt_at", "6", "--model.interrupt_with", str(int(signum))) == status
    said = capsys.readouterr().err
    assert f"stopped by {signum.name}: resume with --ckpt_path runs/tiny/version_0/checkpoints/last.ckpt" in said
    assert torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7


def test_a_full_gpu_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ...")

    monkeypatch.setattr("tiny.TinyModel._loss", full)
    assert run("fit") == 1
    said = capsys.readouterr().err
    assert "error: the GPU is out of memory: lower data.batch_size" in said
    assert "(CUDA out of memory. Tried to allocate 2.00 GiB.)" in said
    assert "Traceback" not in said


# As a process


def test_help_builds_the_parser_of_its_command_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = []
    init = RecipeParser.__init__

    def counted(parser: RecipeParser, *args: object, command: str | None = None, **kwargs: object) -> None:
        built.append(command)
        init(parser, *args, command=command, **kwargs)

    monkeypatch.setattr(RecipeParser, "__init__", counted)
    assert main(["fit", "--help"]) == 0
    assert [command for command in built if command] == ["fit"]
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m recipes fit --config FILE")
    assert "--trainer.max_epochs" in said
    assert "runs/NAME/version_N/" in said


def test_the_common_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for command, description in {**COMMANDS, **{name: own.description for name, own in OWN_COMMANDS.items()}}.items():
        assert f"{command} {description}" in said


@pytest.mark.parametrize(("name", "words"), [("recipes.fit", []), ("recipes", ["fit"])])
def test_both_ways_to_start_a_training_read_the_same_command_line(name: str, words: list[str]) -> None:
    ended = module(name, *words, "--config", "tyni.yaml")
    assert ended.returncode == 2
    assert "did you mean tiny.yaml?" in ended.stderr


def modules_after(program: str) -> dict[str, list[str]]:
    """The modules that a process has imported after each step of a program, which notes them in ``imported``."""
    noting = f"import json, sys\nimported = {{}}\n{program}\nprint(json.dumps(imported))"
    ended = subprocess.run([sys.executable, "-c", noting], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout.splitlines()[-1])


def test_what_needs_no_torch_is_answered_before_torch_is_imported() -> None:
    imported = modules_after("""
from recipes.cli.main import main
for args in (["--help"], ["fti"], ["fit", "--config", "tyni.yaml"]):
    main(args)
    imported[" ".join(args)] = list(sys.modules)
""")
    assert list(imported) == ["--help", "fti", "fit --config tyni.yaml"]
    for answered in imported.values():
        assert "recipes.cli.main" in answered
        assert not {"torch", "lightning", "jsonargparse"} & set(answered)


@pytest.mark.slow  # tests/test_imports.py reads the same from the source
def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    imported = modules_after("""
import recipes.cli.lightning, recipes.text_classification.module
imported["modules"] = list(sys.modules)
""")
    heavy = {"datasets", "pandas", "sklearn", "transformers.modeling_utils", "recipes.runs.plot"}
    assert "recipes.text_classification.module" in imported["modules"]
    assert not heavy & set(imported["modules"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [("recipes.fit", []), ("recipes", ["fit"])])
def test_two_processes_train_together_in_one_folder(name: str, words: list[str]) -> None:
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", "1"]
    ended = module(name, *words, *CONFIG, *ddp)
    assert ended.returncode == 0, ended.stderr
    assert "2 processes" in ended.stderr
    assert [path.name for path in Path("runs/tiny").iterdir()] == ["version_0"]
    # Four batches, two for each process.
    assert torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.slow
def test_a_mistake_is_reported_by_the_first_process_alone() -> None:
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    ended = module("recipes.fit", *CONFIG, *ddp, "--data.missing", "true")
    assert ended.returncode == 2
    assert "error: data.missing is true: nothing to train on" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not Path("runs/tiny").exists()


@pytest.mark.slow
def test_two_processes_stop_together_at_a_nan_loss() -> None:
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    ended = module("recipes.fit", *CONFIG, *ddp, "--model.nan_at", "3")
    assert ended.returncode == 1
    assert ended.stderr.count("became NaN or infinite at step 4") == 1
    assert "Traceback" not in ended.stderr
    kept = torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)
    assert kept["global_step"] == 2


@pytest.mark.parametrize("command", ["compare", "reproduce", "generate", "estimate"])
def test_torchrun_does_not_start_a_command_of_one_process_in_several(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert main([command, "--help"]) == 2

    assert f"{command} was started in 2 processes, and runs in one" in capsys.readouterr().err
