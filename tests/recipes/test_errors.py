"""A mistake ends with exit code 2 and a message of at most five lines: the key or file, and what was expected."""

import logging
import re
from pathlib import Path

import pandas
import pytest
import torch
import yaml

from recipes.cli.config_files import CONFIGS
from recipes.cli.main import main

SHIPPED = sorted(CONFIGS.rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_its_folder(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts in a working folder with ``tiny.yaml``."""
    monkeypatch.setattr(logging, "raiseExceptions", False)


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The message of a command that is refused, after checking that it is short and without a traceback."""
    capsys.readouterr()
    assert main(list(args)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    sentence = "\n".join(lines[next(i for i, line in enumerate(lines) if line.startswith("error: ")) :])
    assert len(sentence.splitlines()) <= 5
    assert "Traceback" not in sentence
    return sentence


IN_THE_FILE = {
    # A line of tiny.yaml, its replacement, and the message.
    "bad YAML": ("trainer:", "trainer: [", r"tiny\.yaml, line \d+ is not valid YAML: .*expected"),
    "wrong indent": ("    width: 4", "  width: 4", r"tiny\.yaml, line 10 is not valid YAML: mapping values"),
    "a key twice": (
        "    width: 4",
        "    width: 4\n    width: 5",
        r"tiny\.yaml, line 10: key 'model\.init_args\.width' was given on line 9 too",
    ),
    "an empty group": ("  monitor: val/score\n  mode: max\n", "", r"tiny\.yaml, line \d+: checkpoint is empty"),
    "unknown group": ("trainer:", "trianer:", r"line 1: unknown key 'trianer'; did you mean 'trainer'"),
    "unknown trainer key": (
        "max_epochs",
        "max_epoch",
        r"line 3: unknown key 'trainer\.max_epoch'; .*'max_epochs'",
    ),
    "unknown model key": (
        "width: 4",
        "widht: 4",
        r"line 9: unknown key 'model\.init_args\.widht'; .*'width'",
    ),
    "unknown data key": (
        "width: ${",
        "size_: ${",
        r"line 17: unknown key 'data\.init_args\.size_'; .*'size'",
    ),
    "argument beside init_args": (
        "  init_args:\n    width: 4",
        "  width: 4\n  init_args:",
        r"line 8: model\.width is beside class_path: move it under init_args",
    ),
    "misspelt init_args": (
        "init_args:",
        "initargs:",
        r"line 8: unknown key 'model\.initargs'; .*'init_args'",
    ),
    "unknown callback key": (
        "max_epochs: 3",
        "callbacks: [{class_path: EarlyStopping, init_args: {monitr: x}}]",
        r"unknown key 'trainer\.callbacks\[0\]\.init_args\.monitr'; did you mean 'monitor'",
    ),
    "missing callback argument": (
        "max_epochs: 3",
        "callbacks: [{class_path: EarlyStopping}]",
        r"trainer\.callbacks\[0\] needs monitor under init_args",
    ),
    "unknown callback": (
        "max_epochs: 3",
        "callbacks: [{class_path: EarlyStoping}]",
        r"'EarlyStoping', which names no Callback; did you mean '.*\.EarlyStopping'",
    ),
    "a list as class_path": ("tiny.TinyModel", "[false, 1]", r"model\.class_path is \[False, 1\], which names no"),
    "no class_path": ("  class_path: tiny.TinyModel\n", "", r"line 6: model has no class_path"),
    "unknown model class": (
        "tiny.TinyModel",
        "tiny.TinyModle",
        r"cannot be imported \(module 'tiny' has no attribute 'TinyModle'\); did you mean 'tiny\.TinyModel'",
    ),
    "unknown model module": (
        "tiny.TinyModel",
        "tinny.TinyModel",
        r"cannot be imported \(No module named 'tinny'\)",
    ),
    "unknown optimizer": (
        "torch.optim.SGD",
        "torch.optim.SDG",
        r"is 'torch\.optim\.SDG', which cannot be imported .*'SDG'\); did you mean 'torch\.optim\.SGD'",
    ),
    "unknown short optimizer": (
        "torch.optim.SGD",
        "SDG",
        r"'SDG', which names no Optimizer; .*'torch\.optim\.SGD'",
    ),
    "no optimizer at all": (
        "torch.optim.SGD",
        "torch.nn.Linear",
        r"'torch\.nn\.Linear', which is no Optimizer",
    ),
    "optimizer of a missing package": (
        "torch.optim.SGD",
        "bitsandbites.AdamW8bit",
        r"cannot be imported \(No module named 'bitsandbites'\)",
    ),
    "unknown optimizer argument": (
        "lr: 0.1",
        "lrr: 0.1",
        r"line 13: unknown key '.*\.lrr'; did you mean 'lr'",
    ),
    "wrong type of an optimizer argument": (
        "lr: 0.1",
        "lr: high",
        r"line 13: .*\.lr is 'high': expected a number",
    ),
    "wrong type": (
        "max_epochs: 3",
        "max_epochs: three",
        r"line 3: .*'three': expected a whole number or null",
    ),
    "wrong type of a model argument": (
        "width: 4",
        "width: wide",
        r"line 9: .*'wide': expected a whole number",
    ),
    "wrong choice": (
        "max_epochs: 3",
        "precision: bf17",
        r"trainer\.precision is 'bf17': expected one of .*'bf16'",
    ),
    "unknown accelerator": ("accelerator: cpu", "accelerator: cpuu", r"accelerator='cpuu'.*Available names"),
    "no device": ("max_epochs: 3", "devices: 0", r"`Trainer\(devices=0\)` value is not a valid input"),
    "reference to nothing": (
        "${model.init_args.width}",
        "${model.init_args.widht}",
        r"line 17: data\.init_args\.width is .*no key 'model\.init_args\.widht'; .*\.width\}",
    ),
    "unset variable": ("max_epochs: 3", "max_epochs: ${oc.env:NOPE}", r"line 3: .*'NOPE' not found"),
    "unknown resolver": (
        "max_epochs: 3",
        "max_epochs: ${whel:x,y}",
        r"line 3: .*Unsupported interpolation type whel",
    ),
    "half a reference": ("max_epochs: 3", "max_epochs: ${a b", r"line 3: trainer\.max_epochs is '\$\{a b'"),
    "missing wheel": (
        "max_epochs: 3",
        "max_epochs: ${wheel:no-wheel,x}",
        r"'no-wheel' is not installed: run `make setup`",
    ),
    "missing file in a wheel": (
        "max_epochs: 3",
        "max_epochs: ${wheel:pytest,x}",
        r"wheel pytest \S+ holds no 'x'",
    ),
    "a folder under a file": (
        "max_epochs: 3",
        "default_root_dir: tiny.yaml/x",
        r"tiny\.yaml/x/tiny/version_N cannot be",
    ),
    "a folder that nobody may write": (
        "max_epochs: 3",
        "default_root_dir: /proc/x",
        r"/proc/x/tiny/version_N cannot be",
    ),
}


@pytest.mark.parametrize(("before", "after", "answer"), IN_THE_FILE.values(), ids=IN_THE_FILE.keys())
def test_a_mistake_in_a_file(
    before: str, after: str, answer: str, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_recipe / "tiny.yaml"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    said = refusal(capsys, "fit", "--config", "tiny.yaml")
    assert re.search(answer, said), said


ON_THE_COMMAND_LINE = {
    "--trainer.max_epoch 3": r"unknown key 'trainer\.max_epoch'; did you mean 'max_epochs'",
    "--trianer.max_epochs 3": r"unknown key 'trianer'; did you mean 'trainer'",
    "--model.widht 3": r"unknown key 'model\.widht'; did you mean 'width'",
    "--model.init_args.widht 3": r"unknown key 'model\.init_args\.widht'; did you mean 'width'",
    "--data.siz 3": r"unknown key 'data\.siz'; did you mean 'size'",
    "--checkpoint.monitr x": r"unknown key 'checkpoint\.monitr'; did you mean 'monitor'",
    "--conf tiny.yaml": r"unknown key 'conf'; did you mean 'config'",
    "--print_conf": r"unknown key 'print_conf'; did you mean 'print_config'",
    "--trainer.max_epochs three": r"trainer\.max_epochs is 'three': expected a whole number or null",
    "--trainer.max_epochs": r"trainer\.max_epochs is given no value: expected a whole number or null",
    "--trainer": r"trainer is given no value: it is a group of settings",
    "--seed_everything x": r"seed_everything is 'x': expected true or false or a whole number",
    "--model.width wide": r"model\.width is 'wide': expected a whole number",
    "--model.optimizer torch.optim.AdmW": r"has no attribute 'AdmW'\); did you mean 'torch\.optim\.AdamW'",
    "--model.optimizer AdmW": r"'AdmW', which names no Optimizer; did you mean 'torch\.optim\.AdamW'",
    "--model.optimizer.lrr 3": r"unknown key 'model\.optimizer\.lrr'; did you mean 'lr'",
    "--trainer.callbacks+ LearningRateMonitr": r"names no Callback; did you mean '.*\.LearningRateMonitor'",
    "--trainer.max_epochs ${nope}": r"trainer\.max_epochs is '\$\{nope\}', and there is no key 'nope'",
    "stray": r"'stray' belongs to no option: options begin with --",
    "--trainer.max_epochs 3 4": r"'4' belongs to no option: options begin with --, and a list is written '\[a, b\]'",
    "--ckpt_path nope.ckpt": r"--ckpt_path nope\.ckpt: no such file; expected a \.ckpt file, the folder of",
    "--ckpt_path tiny.yaml": r"--ckpt_path tiny\.yaml: not a checkpoint",
    "--ckpt_path best": r"--ckpt_path best: no run in runs.tiny has a readable checkpoint",
    "--config tyni.yaml": r"--config tyni\.yaml: no such file in the working folder or .* mean tiny\.yaml",
    "--config nowhere/tiny.yaml": r"--config nowhere/tiny\.yaml: no such file in nowhere/ or ",
    "--config .": r"--config \.: is a folder; expected a YAML file",
    "--config": r"--config is given no value: expected the name of a YAML file",
    "--config {trainer:": r"--config, line 1 is not valid YAML: ",
    "--trainer.default_root_dir ../x --trainer.max_epoch 3": r"unknown key 'trainer\.max_epoch'",
    "--threads 0": r"threads is 0: expected a whole number above 0 or null",
    "--model.optimizer torch.optim.AdamW --model.optimizer.bets 3": r"'model\.optimizer\.bets'; did you mean 'betas'",
}


@pytest.mark.parametrize(("words", "answer"), ON_THE_COMMAND_LINE.items(), ids=ON_THE_COMMAND_LINE.keys())
def test_a_mistake_on_the_command_line(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "fit", "--config", "tiny.yaml", *words.split())
    assert re.search(answer, said), said


@pytest.mark.parametrize(
    "config",
    [
        config
        if config.stem in ("lm", "lm_scratch", "adafactor", "fsdp2")
        else pytest.param(config, marks=pytest.mark.slow)
        for config in SHIPPED
    ],
    ids=[config.stem for config in SHIPPED],
)
def test_no_line_of_a_shipped_file_is_taken_for_the_mistake(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "fit", "--config", "cls.yaml", "--config", str(config), "--data.num_wokers", "3")
    assert said == "error: unknown key 'data.num_wokers'; did you mean 'num_workers'?"


COMMANDS = {
    "": r"expected a command",
    "fitt --config tiny.yaml": r"unknown command 'fitt'; did you mean 'fit'",
    "cook --config tiny.yaml": r"unknown command 'cook'; expected one of fit, validate, test, predict",
    "--config tiny.yaml fit": r"'--config' is given before the command",
    "fit": r"data and model must be given: name a recipe, such as --config cls\.yaml",
    "fit --data tiny.TinyData": r"model must be given: name a recipe",
}


@pytest.mark.parametrize(("words", "answer"), COMMANDS.items(), ids=COMMANDS.keys())
def test_a_mistake_in_the_command(words: str, answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, *words.split())
    assert re.search(answer, said), said


@pytest.mark.parametrize(
    ("text", "answer"),
    [("", "is empty: expected"), ("- 1\n- 2\n", "holds a sequence: expected"), ("trainer", "holds a scalar")],
    ids=["empty", "a list", "a word"],
)
def test_a_file_that_holds_no_settings(
    text: str, answer: str, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_recipe / "other.yaml").write_text(text, encoding="utf-8")
    assert f"other.yaml {answer}" in refusal(capsys, "fit", "--config", "other.yaml")


def test_a_file_that_is_no_text(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_recipe / "other.yaml").write_bytes(b"\xff\xfe\x00\x80")
    assert "other.yaml cannot be read" in refusal(capsys, "fit", "--config", "other.yaml")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU on this machine")
def test_a_gpu_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "fit", "--config", "tiny.yaml", "--trainer.accelerator", "gpu")
    assert "trainer.accelerator is 'gpu', and torch finds no such device on this machine" in said


def test_a_checkpoint_that_could_run_code_is_refused(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"path": tiny_recipe}}, tiny_recipe / "bad.ckpt")
    said = refusal(capsys, "validate", "--config", "tiny.yaml", "--ckpt_path", "bad.ckpt")
    assert "bad.ckpt: not a checkpoint, or one that holds more than tensors and plain values" in said


# Text classification


@pytest.fixture
def cls(tiny_recipe: Path, tiny_model: Path, wires: pandas.DataFrame) -> dict:
    """The settings of a small text classifier, in the form of ``cls.yaml``."""
    wires.to_csv("wires.csv", index=False)
    return {
        "trainer": {"accelerator": "cpu", "fast_dev_run": True},
        "model": {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model)}},
        "data": {
            "class_path": "recipes.TextClassificationData",
            "init_args": {"text": "headline", "label": "desk", "train": "wires.csv", "max_length": 16},
        },
    }


def refused(capsys: pytest.CaptureFixture[str], config: dict, command: str = "fit") -> str:
    Path("cls.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return refusal(capsys, command, "--config", "./cls.yaml")


def test_the_classifier_trains_where_nothing_is_wrong(cls: dict) -> None:
    Path("cls.yaml").write_text(yaml.safe_dump(cls), encoding="utf-8")
    assert main(["fit", "--config", "./cls.yaml"]) == 0


DATA = {
    "missing file": ({"train": "wirse.csv"}, r"data\.train: there is no file 'wirse\.csv'"),
    "missing text column": (
        {"text": "headlin"},
        r"data\.text is 'headlin', .*no such column.*did you mean 'headline'",
    ),
    "missing label column": (
        {"label": "desc"},
        r"data\.label is 'desc', .*no such column.*did you mean 'desk'",
    ),
    "unknown label in validation": (
        {"validation": "odd.csv"},
        r"data\.validation has labels that data\.train does not have: 'sport'",
    ),
    "empty split": ({"validation": "none.csv"}, r"data\.validation.* no rows"),
    "unreachable hub dataset": (
        {"path": "no-one/nothing", "train": "train"},
        r"data\.train: .*no-one/nothing.*hub",
    ),
    "one column for both": ({"text": "desk"}, r"name the same column"),
    "a fraction that is too small": ({"validation": 0.0001}, r"data\.validation is 0\.0001, which splits off 0"),
    "an empty batch": ({"batch_size": 0}, r"data\.init_args\.batch_size is 0: expected a whole number above 0"),
    "a text without columns": ({"text": 3}, r"data\.init_args\.text is 3: expected a text or a list of text"),
}


@pytest.mark.parametrize(("changed", "answer"), DATA.values(), ids=DATA.keys())
def test_a_mistake_in_the_data(
    changed: dict, answer: str, cls: dict, wires: pandas.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    wires.assign(desk="sport").to_csv("odd.csv", index=False)
    wires.head(0).to_csv("none.csv", index=False)
    cls["data"]["init_args"] |= changed
    said = refused(capsys, cls)
    assert re.search(answer, said), said


def test_a_required_argument_that_is_missing(cls: dict, capsys: pytest.CaptureFixture[str]) -> None:
    del cls["model"]["init_args"]["pretrained"]
    assert "model needs pretrained under init_args" in refused(capsys, cls)


def test_a_model_folder_without_weights(
    cls: dict, tiny_model: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tiny_recipe / "bare"
    bare.mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (bare / file.name).write_bytes(file.read_bytes())
    cls["model"]["init_args"]["pretrained"] = str(bare)
    assert re.search(r"model\.pretrained: the folder '.*bare' holds no weights", refused(capsys, cls))


def test_an_unreachable_hub_model(cls: dict, capsys: pytest.CaptureFixture[str]) -> None:
    cls["model"]["init_args"]["pretrained"] = "no-one/nothing"
    said = refused(capsys, cls)
    assert re.search(r"model\.pretrained: 'no-one/nothing' is neither a local folder nor reachable", said)


def test_nothing_to_predict(cls: dict, capsys: pytest.CaptureFixture[str]) -> None:
    assert "data.predict is null" in refused(capsys, cls, "predict")
