"""The command line end to end: settings, the files of a run, checkpoints, exit codes."""

import csv
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from recipes.cli import config_files
from recipes.cli.commands import COMMANDS, OWN_COMMANDS
from recipes.cli.main import main
from recipes.cli.parser import RecipeParser

REPOSITORY = Path(__file__).parents[3]
CONFIG = ["--config", "tiny.yaml"]


@pytest.fixture(autouse=True)
def _in_its_folder(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test starts in a working folder with ``tiny.yaml``.

    Lightning logs to the standard error of the test that imported it, which may be closed by now.
    """
    monkeypatch.setattr(logging, "raiseExceptions", False)


def run(command: str, *options: str) -> int:
    """Runs a command on ``tiny.yaml`` in this process, without the sanity check."""
    return main([command, *CONFIG, "--trainer.num_sanity_val_steps", "0", *options])


def settings(capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    """What ``--print_config`` prints for a fit with these options."""
    capsys.readouterr()
    assert main(["fit", *options, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def saved(version: int, name: str = "tiny") -> dict:
    """The ``config.yaml`` of a run."""
    return yaml.safe_load(Path(f"runs/{name}/version_{version}/config.yaml").read_text(encoding="utf-8"))


def module(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m name`` as a user does."""
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests' / 'recipes'}"
    return subprocess.run(
        [sys.executable, "-m", name, *args],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


# Settings


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


# The files of a run


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


# Checkpoints


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
