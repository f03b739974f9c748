"""The folder of a run: settings, metrics, events and checkpoints."""

import csv
from pathlib import Path

import pytest
import torch

from recipes.cli.main import main
from tests.recipes.cli.tiny_runs import run, saved

pytestmark = pytest.mark.usefixtures("tiny_recipe")  # every test starts in a working folder with tiny.yaml


def test_a_run_writes_its_settings_metrics_events_and_checkpoints_into_one_folder(finished_run: Path) -> None:
    assert [path.name for path in Path("runs/tiny").iterdir()] == ["version_0"]
    left = {path.name.split(".")[0] for path in finished_run.iterdir()}
    assert left == {"config", "metrics", "events", "checkpoints", "hparams"}
    checkpoints = {path.name for path in (finished_run / "checkpoints").iterdir()}
    kept = {"epoch=2-step=12.ckpt", "last.ckpt"}
    assert checkpoints == kept | {f"{name}.sha256" for name in kept}
    with (finished_run / "metrics.csv").open(encoding="utf-8") as file:
        columns = set(next(csv.reader(file)))
    assert {"step", "train/loss", "val/loss", "lr-SGD", "optimizer/state_mb"} <= columns


def test_saved_settings_are_resolved_and_run_again_into_a_new_folder_of_the_same_name() -> None:
    assert run("fit", "--model.width", "6") == 0
    first = Path("runs/tiny/version_0")
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    assert saved(0)["data"]["init_args"]["width"] == 6
    assert main(["fit", "--config", str(first / "config.yaml")]) == 0
    assert saved(1) == saved(0)
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before


def test_runs_go_to_the_folder_of_the_variable_or_of_the_option(
    monkeypatch: pytest.MonkeyPatch, tiny_recipe: Path
) -> None:
    monkeypatch.setenv("RUNS_DIR", str(tiny_recipe / "by-variable"))
    assert run("fit") == 0
    assert run("fit", "--trainer.default_root_dir", "by-option") == 0
    assert (tiny_recipe / "by-variable/tiny/version_0/config.yaml").is_file()
    assert (tiny_recipe / "by-option/tiny/version_0/config.yaml").is_file()
    assert not (tiny_recipe / "runs").exists()


def test_a_trial_run_writes_nothing(tiny_recipe: Path) -> None:
    assert run("fit", "--trainer.fast_dev_run", "2") == 0
    assert [path.name for path in tiny_recipe.iterdir()] == ["tiny.yaml"]


def test_a_run_that_fails_before_it_has_written_anything_leaves_no_folder(tiny_recipe: Path) -> None:
    assert run("fit", "--trainer.devices", "0") == 2
    assert not (tiny_recipe / "runs" / "tiny").exists()


@pytest.mark.usefixtures("finished_run")
def test_equal_seeds_give_equal_weights_and_the_seed_is_42_unless_another_is_given() -> None:
    assert run("fit") == 0
    assert run("fit", "--seed_everything", "7") == 0
    assert [saved(version)["seed_everything"] for version in range(3)] == [42, 42, 7]
    paths = [Path(f"runs/tiny/version_{n}/checkpoints/last.ckpt") for n in range(3)]
    first, same, other = (torch.load(path, weights_only=True)["state_dict"]["layer.weight"] for path in paths)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_without_loggers_the_checkpoints_and_settings_are_still_in_the_runs_folder() -> None:
    assert run("fit", "--trainer.logger", "false") == 0
    left = {path.name for path in Path("runs/tiny/version_0").iterdir()}
    assert left == {"config.yaml", "checkpoints"}


def test_a_logger_of_the_user_is_added_to_those_of_the_recipe(tiny_recipe: Path) -> None:
    own = "{class_path: CSVLogger, init_args: {save_dir: mine, name: x, version: y}}"
    assert run("fit", "--trainer.logger", own) == 0
    assert (tiny_recipe / "mine/x/y/metrics.csv").is_file()
    assert (tiny_recipe / "runs/tiny/version_0/metrics.csv").is_file()
    assert (tiny_recipe / "runs/tiny/version_0/checkpoints/last.ckpt").is_file()


@pytest.mark.usefixtures("finished_run")
def test_the_configuration_defines_the_best_checkpoint() -> None:
    assert run("fit", "--checkpoint.monitor", "train/loss", "--checkpoint.mode", "min") == 0
    assert [(saved(n)["checkpoint"]["monitor"], saved(n)["checkpoint"]["mode"]) for n in (0, 1)] == [
        ("val/score", "max"),
        ("train/loss", "min"),
    ]


@pytest.mark.usefixtures("finished_run")
def test_a_monitor_without_a_mode_keeps_the_best_checkpoint() -> None:
    assert run("fit", "--checkpoint.monitor", "val/score") == 0
    assert saved(1)["checkpoint"]["mode"] == "max"


def test_without_validation_the_newest_checkpoint_is_kept() -> None:
    assert run("fit", "--trainer.limit_val_batches", "0", "--checkpoint.monitor", "null") == 0
    assert Path("runs/tiny/version_0/checkpoints/epoch=2-step=12.ckpt").is_file()


def test_the_last_checkpoint_holds_the_last_step_also_after_the_last_validation() -> None:
    assert run("fit", "--trainer.val_check_interval", "3", "--trainer.max_epochs", "1") == 0
    last = torch.load("runs/tiny/version_0/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert Path("runs/tiny/version_0/checkpoints/epoch=0-step=3.ckpt").is_file()


def test_checkpoints_may_be_turned_off() -> None:
    assert run("fit", "--trainer.enable_checkpointing", "false") == 0
    assert not Path("runs/tiny/version_0/checkpoints").exists()
