"""Files, options and references become the settings of a run."""

from pathlib import Path

import pytest
import torch

from recipes.cli import config_files
from recipes.cli.main import main
from tests.recipes.cli.tiny_runs import CONFIG, run, settings

pytestmark = pytest.mark.usefixtures("tiny_recipe")  # every test starts in a working folder with tiny.yaml


def test_a_bare_config_name_is_looked_for_here_and_then_in_configs(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = tiny_recipe / "configs"
    shipped.mkdir()
    monkeypatch.setattr(config_files, "CONFIGS", shipped)
    text = (tiny_recipe / "tiny.yaml").read_text(encoding="utf-8")
    (shipped / "tiny.yaml").write_text(text.replace("max_epochs: 3", "max_epochs: 8"), encoding="utf-8")
    (shipped / "other.yaml").write_text(text.replace("max_epochs: 3", "max_epochs: 9"), encoding="utf-8")
    assert settings(capsys, "--config", "tiny.yaml")["trainer"]["max_epochs"] == 3
    assert settings(capsys, "--config", "other.yaml")["trainer"]["max_epochs"] == 9


def test_files_and_options_are_merged_from_left_to_right(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_recipe / "more.yaml").write_text("trainer: {max_epochs: 5}\n", encoding="utf-8")
    composed = settings(capsys, *CONFIG, "--config", "more.yaml", "--data.size", "12")
    assert composed["trainer"]["max_epochs"] == 5
    assert composed["data"]["init_args"]["size"] == 12
    assert settings(capsys, "--config", "more.yaml", *CONFIG)["trainer"]["max_epochs"] == 3


def test_an_override_changes_the_settings_that_refer_to_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert settings(capsys, *CONFIG)["data"]["init_args"]["width"] == 4
    assert settings(capsys, *CONFIG, "--model.width", "6")["data"]["init_args"]["width"] == 6


def test_references_reach_from_file_to_file(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_recipe / "more.yaml").write_text("data: {init_args: {size: '${trainer.max_epochs}'}}\n", encoding="utf-8")
    composed = settings(capsys, *CONFIG, "--config", "more.yaml", "--trainer.max_epochs", "7")
    assert composed["data"]["init_args"]["size"] == 7


def test_anchors_under_a_key_that_begins_with_x_are_merged(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_recipe / "common.yaml").write_text("x-short: &short {max_epochs: 1}\ntrainer: {<<: *short, max_steps: 2}\n")
    printed = settings(capsys, *CONFIG, "--config", "common.yaml")
    assert (printed["trainer"]["max_epochs"], printed["trainer"]["max_steps"]) == (1, 2)
    assert "x-short" not in printed


def test_another_key_with_an_anchor_is_answered_with_that_name(
    tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny_recipe / "common.yaml").write_text("short: &short\n  max_epochs: 1\ntrainer: *short\n")
    assert main(["fit", *CONFIG, "--config", "common.yaml"]) == 2
    answer = "common.yaml, line 1: unknown key 'short'; a key that only holds an anchor is called x-short"
    assert answer in capsys.readouterr().err


def test_references_may_be_typed_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    composed = settings(capsys, *CONFIG, "--trainer.max_epochs", "${data.init_args.batch_size}")
    assert composed["trainer"]["max_epochs"] == 4


def test_paths_in_a_file_are_relative_to_the_file(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_recipe / "elsewhere"
    folder.mkdir()
    (folder / "model.yaml").write_text("class_path: tiny.TinyModel\ninit_args: {width: 9}\n", encoding="utf-8")
    (folder / "more.yaml").write_text("model: model.yaml\n", encoding="utf-8")
    composed = settings(capsys, *CONFIG, "--config", "elsewhere/more.yaml")
    assert composed["model"]["init_args"]["width"] == 9
    assert Path.cwd() == tiny_recipe


def test_settings_may_be_given_as_yaml_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    composed = settings(capsys, *CONFIG, "--config", "{data: {init_args: {size: '${trainer.max_epochs}'}}}")
    assert composed["data"]["init_args"]["size"] == 3


@pytest.mark.parametrize(
    "options",
    [
        ["--model.optimizer.beta1", "null", "--model.optimizer.eps", "[null, 1e-2]"],
        ["--model.init_args.optimizer.init_args.beta1=null", "--model.optimizer.eps=[null, 0.01]"],
        ["--config", "{model: {init_args: {optimizer: {init_args: {beta1: null, eps: [null, 0.01]}}}}}"],
    ],
)
def test_null_on_the_command_line_is_null_as_in_a_file(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    adafactor = ["--model.optimizer", "lightning_adafactor.Adafactor", "--model.optimizer.beta1", "0.5"]
    made = settings(capsys, *CONFIG, *adafactor, *options)["model"]["init_args"]["optimizer"]
    assert made["init_args"]["beta1"] is None
    assert made["init_args"]["eps"] == [None, 0.01]
    assert made["init_args"]["lr"] == 0.01  # its own default: the file's lr is another class's


@pytest.mark.parametrize("key", ["optimizer.lr", "interrupt_with", "width"])
def test_null_is_a_mistake_where_a_class_needs_a_value(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", f"--model.{key}", "null") == 2
    assert f"model.{key} is null: expected a" in capsys.readouterr().err


def test_an_appended_callback_with_arguments_is_no_mistake_beside_a_null(capsys: pytest.CaptureFixture[str]) -> None:
    callback = ["--trainer.callbacks+", "lightning.pytorch.callbacks.EarlyStopping"]
    callback += ["--trainer.callbacks.monitor", "val/f1", "--trainer.callbacks.mode", "max"]
    made = settings(capsys, *CONFIG, "--trainer.max_time", "null", *callback)["trainer"]["callbacks"]
    assert made[-1]["init_args"]["monitor"] == "val/f1"


def test_a_negative_number_may_follow_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert settings(capsys, *CONFIG, "--model.rate", "-1e-3")["model"]["init_args"]["rate"] == -1e-3


def test_a_learning_rate_that_a_file_gives_another_optimizer_is_not_taken_over_and_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings(capsys, *CONFIG)
    assert main(["fit", *CONFIG, "--model.optimizer", "torch.optim.AdamW", "--trainer.fast_dev_run", "1"]) == 0
    told = "model.optimizer is now torch.optim.AdamW with its own lr = 0.001: tiny.yaml gives lr = 0.1 to another class"
    assert f"note: {told}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("gpu", "accelerator", "gpu"), ("fp32", "precision", "32-true"), ("quick", "limit_train_batches", 20)],
)
def test_a_trainer_file_is_merged_into_a_recipe(
    name: str, key: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings(capsys, *CONFIG, "--config", f"trainer/{name}.yaml")["trainer"][key] == value


def test_the_quick_trainer_file_runs_to_the_end() -> None:
    assert run("fit", "--config", "trainer/quick.yaml", "--data.size", "200") == 0
    last = torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 20
