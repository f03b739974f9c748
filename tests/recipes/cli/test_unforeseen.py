"""An error of a library or of the user's code is a sentence, its traceback in a file; a fault of ours shows its own."""

import inspect
import re
import types
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

import lightning_adafactor
import recipes
from recipes.cli.main import main
from recipes.cli.unforeseen import is_ours

HOOKS = ["__init__", *(name for name, value in vars(Callback).items() if inspect.isfunction(value) and name[0] != "_")]
QUICK_HOOKS = (
    "__init__",
    "on_exception",
    "on_load_checkpoint",
    "on_test_batch_end",
    "on_predict_epoch_start",
    "teardown",
)
"""One of each kind of command and moment; the sentences below are those of further hooks."""
METHODS = ["__init__", "step", "zero_grad", "add_param_group", "state_dict", "load_state_dict"]


pytestmark = pytest.mark.usefixtures("tiny_recipe")  # every test starts in a working folder with tiny.yaml


def run(capsys: pytest.CaptureFixture[str], command: str, *options: str) -> tuple[int, str]:
    """Runs a command on one epoch of ``tiny.yaml``; returns its exit status and what it says on standard error."""
    capsys.readouterr()
    status = main([command, "--config", "tiny.yaml", "--trainer.max_epochs", "1", *options])
    return status, capsys.readouterr().err


def the_sentence(said: str) -> str:
    """The only line of an error message, after checking that there is no traceback beside it."""
    assert "Traceback" not in said
    lines = said.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    assert len(lines[at:]) == 1
    return lines[at]


def raising(hook: str) -> list[str]:
    return ["--trainer.callbacks+", "raising.RaisingCallback", "--trainer.callbacks.hook", hook]


@pytest.mark.parametrize(
    "hook", [hook if hook in QUICK_HOOKS else pytest.param(hook, marks=pytest.mark.slow) for hook in HOOKS]
)
def test_an_error_in_a_hook_of_a_callback_is_a_sentence(hook: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, options = "fit", []
    if "test" in hook or "predict" in hook:
        command = "test" if "test" in hook else "predict"
    elif "load" in hook:
        assert run(capsys, "fit", *raising("nothing"))[0] == 0
        options = ["--ckpt_path", "last", "--trainer.max_epochs", "2"]
    elif hook == "on_exception":
        options = ["--model.bug_at", "1"]
    status, said = run(capsys, command, *raising(hook), *options)
    sentence = the_sentence(said)
    assert status == 1
    assert f"failed in trainer.callbacks[0] (raising.RaisingCallback.{hook}): ArithmeticError: {hook} does" in sentence
    file = Path(re.search(r"the traceback is in (\S+)$", sentence)[1])
    if hook == "__init__":  # there is no run yet
        assert file.match("runs/error_????-??-??_??-??-??.txt")
    else:
        assert file.match("runs/tiny/version_?/error.txt")
    assert f"\nArithmeticError: {hook} does not work\n" in file.read_text(encoding="utf-8")


def test_every_method_of_an_optimizer_is_among_those_that_raise() -> None:
    public = {name for name, value in vars(torch.optim.Optimizer).items() if callable(value) and name[0] != "_"}
    others = {name for name in public if name.startswith("register_")} | {"OptimizerPreHook", "OptimizerPostHook"}
    assert public - others - {"profile_hook_step"} == set(METHODS) - {"__init__"}


@pytest.mark.parametrize("method", METHODS)
def test_an_error_in_a_method_of_an_optimizer_is_a_sentence(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    optimizer = ["--model.optimizer", "raising.RaisingSGD", "--model.optimizer.method"]
    options = []
    if method == "load_state_dict":
        assert run(capsys, "fit", *optimizer, "nothing")[0] == 0
        options = ["--ckpt_path", "last", "--trainer.max_epochs", "2"]
    status, said = run(capsys, "fit", *optimizer, method, *options)
    assert status in (1, 2)
    assert re.search(
        rf"failed in model.optimizer \(raising.RaisingSGD.\w+\): ArithmeticError: {method} does", the_sentence(said)
    )


# What was done, and the key


@pytest.mark.parametrize(
    ("status", "options", "answer"),
    [
        (
            1,
            ["--model.bug_at", "2"],
            "training step 3 failed in model (tiny.TinyModel.training_step): ZeroDivisionError",
        ),
        (1, raising("on_train_batch_end"), "the end of training step 1 failed in trainer.callbacks[0]"),
        (1, raising("on_save_checkpoint"), "saving a checkpoint after step 4 failed in trainer.callbacks[0]"),
        (1, raising("setup"), "setting up the run failed in trainer.callbacks[0]"),
        (1, raising("on_sanity_check_start"), "the validation before training failed in trainer.callbacks[0]"),
        (
            1,
            [*raising("on_validation_start"), "--trainer.num_sanity_val_steps", "0"],
            "validation after step 4 failed in trainer.callbacks[0]",
        ),
        (1, raising("on_train_epoch_end"), "the end of epoch 1 failed in trainer.callbacks[0]"),
        (1, raising("on_train_end"), "the end of the training after step 4 failed in trainer.callbacks[0]"),
        (
            2,
            ["--model.optimizer", "raising.raising_optimizer"],
            "creating the optimizer failed in model.optimizer (raising.raising_optimizer): ArithmeticError",
        ),
        (
            2,
            ["--trainer.callbacks", "[{class_path: EarlyStopping, init_args: {monitor: x, mode: sideways}}]"],
            "trainer.callbacks[0]: `mode` can be min, max, got sideways",
        ),
        (
            1,
            ["--data.width", "3"],
            "failed in model (torch.nn.modules.linear.Linear.forward): RuntimeError: mat1 and mat2",
        ),
        (
            2,
            ["--trainer.logger", "WandbLogger"],
            "failed in trainer.logger (lightning.pytorch.loggers.wandb.WandbLogger",
        ),
    ],
)
def test_the_sentence_says_what_was_done_and_names_the_key_and_the_status_is_2_where_the_user_can_fix_it(
    status: int, options: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, said = run(capsys, "fit", *options)
    assert answer in the_sentence(said)
    assert ended == status


def test_of_several_callbacks_the_one_that_failed_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    raising_one = "{class_path: raising.RaisingCallback, init_args: {hook: on_fit_start}}"
    listed = f"[{{class_path: Timer}}, {{class_path: LearningRateMonitor}}, {raising_one}]"
    sentence = the_sentence(run(capsys, "fit", "--trainer.callbacks", listed)[1])
    assert "trainer.callbacks[2]" in sentence, sentence


def test_an_error_that_follows_another_is_told_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = the_sentence(run(capsys, "fit", *raising("on_exception"), "--model.bug_at", "1")[1])
    first, _, second = sentence.partition("; then ")
    assert first.endswith("ZeroDivisionError: a bug in the model")
    assert second.startswith("ending the run failed in trainer.callbacks[0]")


def test_a_run_that_fails_after_a_checkpoint_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "fit", "--model.bug_at", "5", "--trainer.max_epochs", "2")
    assert status == 1
    assert "; resume with --ckpt_path runs/tiny/version_0/checkpoints/last.ckpt; the traceback" in the_sentence(said)
    assert run(capsys, "fit", "--ckpt_path", "last", "--trainer.max_epochs", "2", "--model.bug_at", "null")[0] == 0


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    status, said = run(capsys, "fit", "--model.bug_at", "2", "--debug")
    assert status == 1
    assert 'raise ZeroDivisionError("a bug in the model")' in said
    assert said.splitlines()[-1].startswith("error: training step 3 failed in model")


def test_what_cannot_be_written_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").write_text("a file where the folder would be")
    sentence = the_sentence(run(capsys, "fit", *raising("__init__"))[1])
    assert sentence.endswith("; --debug shows the traceback")


class Stopped(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2026, 1, 2, 3, 4, 5)


def test_the_other_commands_write_the_traceback_to_the_folder_of_all_runs_each_to_its_own_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.cli.unforeseen.datetime", Stopped)
    broken = planted("def planted(*args, **kwargs): raise ArithmeticError('no parser')", "/site/library.py")
    monkeypatch.setattr("argparse.ArgumentParser.parse_known_args", broken)
    names = ["", "2_", "3_", "4_"]
    for name, command in zip(names, ["estimate", "generate", "compare", "reproduce"], strict=True):
        status, said = run(capsys, command)
        file = f"runs/{name}error_2026-01-02_03-04-05.txt"
        failed = f"error: recipes {command} failed: ArithmeticError: no parser; the traceback is in {file}"
        assert (status, the_sentence(said)) == (1, failed)
        assert Path(file).read_text().endswith("ArithmeticError: no parser\n")


def test_the_folder_of_all_runs_is_the_one_that_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "fit", *raising("__init__"), "--trainer.default_root_dir", "elsewhere")
    assert [file.name[:6] for file in Path("elsewhere").iterdir()] == ["error_"]


def test_a_long_message_is_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def long(*args: Any) -> None:
        raise ValueError("first words\n" + "and so on " * 1000)

    monkeypatch.setattr("tiny.TinyModel._loss", long)
    sentence = the_sentence(run(capsys, "fit")[1])
    assert "ValueError: first words and so on" in sentence
    assert len(sentence) < 700


# A fault of ours


def planted(source: str, file: str) -> types.FunctionType:
    """A function whose code claims to be in a file."""
    names: dict[str, Any] = {}
    exec(compile(source, file, "exec"), names)
    return names["planted"]


HERE = str(Path(recipes.__file__).parent / "planted.py")
THERE = str(Path(lightning_adafactor.__file__).parent / "planted.py")


@pytest.mark.parametrize(
    ("source", "file", "ours"),
    [
        ("def planted(*args): return {}['key']", HERE, True),
        ("def planted(*args): raise ValueError('x')", HERE, True),
        ("def planted(*args): return {}['key']", THERE, True),
        ("def planted(*args): assert not args and 0", THERE, True),
        ("def planted(*args): raise ValueError('lr is -1: expected a number above 0')", THERE, False),
        ("def planted(*args): open('/nowhere/at/all')", HERE, False),
        ("def planted(*args): raise ValueError('x')", "/home/user/mine.py", False),
        ("import json\ndef planted(*args): json.loads('{')", HERE, False),
    ],
)
def test_a_fault_is_ours_if_the_innermost_code_is(source: str, file: str, ours: bool) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - each source raises another one
        planted(source, file)()
    assert is_ours(raised.value) == ours


@pytest.mark.parametrize("command", ["fit", "estimate"])
def test_a_fault_of_ours_shows_its_traceback_and_where_to_report_it(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = planted("def planted(*args, **kwargs): return {}['key']", HERE)
    monkeypatch.setattr("recipes.cli.command_line.CommandLine.parse", bug)
    capsys.readouterr()
    assert main([command, "--config", "tiny.yaml"]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "KeyError: 'key'" in said
    assert "error: this is a fault of lightning-adafactor: please report it" in said
