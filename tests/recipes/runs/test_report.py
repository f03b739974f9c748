"""A finished run leaves the best checkpoint's model, a report that adds up, and a picture."""

import hashlib
import importlib.metadata
import json
import resource
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from matplotlib.image import imread
from transformers import AutoModelForSequenceClassification

from lightning_adafactor import Adafactor, compute_optimizer_size
from lightning_adafactor.implementation import summarize
from recipes import TextClassificationData, TextClassifier
from recipes.checksums import file_sha256
from recipes.cli.finish import finish
from recipes.runs.fingerprint import weights_sha256
from recipes.runs.provenance import git_commit
from recipes.runs.report import as_json, import_path


def run(tiny_model: Path, wires_csv: Path, folder: Path, optimizer: Any = None, **arguments: Any) -> SimpleNamespace:
    seed_everything(5, verbose=False)
    model = TextClassifier(str(tiny_model), **({"optimizer": optimizer} if optimizer else {}))
    test = arguments.pop("test", 0.2)
    data = TextClassificationData("headline", "desk", str(wires_csv), test=test, max_length=16, batch_size=8)
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "val_check_interval": 0.5,
        "log_every_n_steps": 2,
        "logger": CSVLogger(folder, "topics"),
        "callbacks": [ModelCheckpoint(monitor="val/loss")],
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    trainer = Trainer(**{**defaults, **arguments})
    trainer.fit(model, data)
    settings = {"trainer": {"precision": None}, "model": {"pretrained": str(tiny_model)}, "data": {}}
    return SimpleNamespace(
        trainer=trainer,
        model=model,
        datamodule=data,
        settings=settings,
    )


def finish_run(ended: SimpleNamespace) -> None:
    finish(ended.trainer, ended.model, ended.datamodule, ended.settings, "seed_everything: 5\n")


def most_resident_mb() -> float:
    """The most memory that this process had resident so far, as the report rounds it."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


@pytest.fixture(scope="module", autouse=True)
def charts() -> None:
    """The pictures of these runs are drawn."""


@pytest.fixture(scope="module")
def finished(tiny_model: Path, wires_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    resident_before = most_resident_mb()
    cli = run(tiny_model, wires_csv, tmp_path_factory.mktemp("runs"))
    optimizer = cli.trainer.optimizers[0]
    finish_run(cli)
    folder = Path(cli.trainer.log_dir)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return SimpleNamespace(cli=cli, folder=folder, report=report, optimizer=optimizer, resident_before=resident_before)


def test_the_report_has_all_its_keys(finished: SimpleNamespace) -> None:
    assert list(finished.report) == [
        "recipe", "optimizer", "implementation", "optimizer_state", "total_state", "adamw_state", "total_adamw_state",
        "parameters", "parameter_memory", "gradient_memory", "metrics", "monitor", "steps", "seconds_per_step",
        "seconds", "samples_per_second", "peak_memory_mb", "versions", "device", "seed", "git_commit", "fingerprint",
        "data", "history", "provenance",
    ]  # fmt: skip
    assert set(finished.report["metrics"]) == {
        f"{stage}/{metric}" for stage in ("val", "test") for metric in ("loss", "accuracy", "f1")
    }


def test_optimizer_state_is_what_the_optimizer_holds(finished: SimpleNamespace) -> None:
    megabytes, elements = compute_optimizer_size(finished.optimizer.state.values())

    assert finished.report["optimizer"] == "lightning_adafactor.Adafactor"
    assert finished.report["optimizer_state"] == {
        "elements": elements,
        "bytes": megabytes * 2**20,
        "megabytes": megabytes,
    }
    assert finished.report["total_state"] == finished.report["optimizer_state"]  # of one process


def test_the_implementation_of_every_parameter_is_counted(finished: SimpleNamespace) -> None:
    counted = finished.report["implementation"]

    assert sum(kind["parameters"] for kind in counted) == len(list(finished.cli.model.parameters()))
    assert counted == summarize(finished.optimizer.implementation().values())
    assert {kind["path"] for kind in counted} <= {"compiled", "plain"}  # on a CPU


def test_adamw_state_is_what_adamw_holds(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    cli = run(tiny_model, wires_csv, tmp_path, lambda params: torch.optim.AdamW(params, lr=1e-3), max_steps=1)
    finish_run(cli)

    report = json.loads((Path(cli.trainer.log_dir) / "report.json").read_text(encoding="utf-8"))
    assert report["optimizer"] == "torch.optim.AdamW"
    assert report["implementation"] == []
    assert report["adamw_state"] == report["optimizer_state"]
    tensors = list(cli.model.parameters())
    assert report["parameters"] == sum(tensor.numel() for tensor in tensors)
    assert report["adamw_state"]["elements"] == 2 * report["parameters"] + len(tensors)


def test_counts_and_times_add_up(finished: SimpleNamespace) -> None:
    report = finished.report

    assert report["recipe"] == "topics"
    assert report["seed"] == 5
    assert report["steps"] == 22  # 84 training rows, twice, by 8
    assert set(report["seconds"]) == {"setup", "train", "test"}
    assert all(seconds > 0 for seconds in report["seconds"].values())
    assert report["samples_per_second"] > 2 * 84 / report["seconds"]["train"]  # validations are left out
    assert finished.resident_before <= report["peak_memory_mb"] <= most_resident_mb()
    assert report["versions"]["torch"] == importlib.metadata.version("torch")


def test_metrics_are_those_of_the_best_checkpoint(finished: SimpleNamespace) -> None:
    checkpoint = finished.cli.trainer.checkpoint_callback
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu", enable_checkpointing=False)

    results = [
        evaluate(finished.cli.model, finished.cli.datamodule, ckpt_path=checkpoint.best_model_path, verbose=False)[0]
        for evaluate in (trainer.validate, trainer.test)
    ]

    assert finished.report["metrics"] == pytest.approx(results[0] | results[1], abs=1e-6)


def test_the_model_folder_holds_the_best_weights(finished: SimpleNamespace) -> None:
    best = torch.load(finished.cli.trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
    saved = AutoModelForSequenceClassification.from_pretrained(finished.folder / "model").state_dict()

    for name, tensor in saved.items():
        torch.testing.assert_close(best[f"model.{name}"], tensor)


def test_the_picture_is_a_readable_png(finished: SimpleNamespace) -> None:
    height, width, _ = imread(finished.folder / "report.png").shape

    assert width > 1000
    assert height > 300


def test_the_curves_hold_every_validation_and_the_mean_losses_between(finished: SimpleNamespace) -> None:
    history = next(c for c in finished.cli.trainer.callbacks if type(c).__name__ == "RunHistory")

    assert [step for step, _ in history.evaluations] == [5, 10, 16, 21]
    steps = [step for step, _, _ in history.losses]
    assert steps == sorted(set(steps))
    assert steps[-1] == 22
    assert 0.3 < history.losses[0][1] < 3
    assert finished.report["history"]["losses"] == [list(entry) for entry in history.losses]


def test_the_seconds_of_the_curve_are_without_validation(finished: SimpleNamespace) -> None:
    history = next(c for c in finished.cli.trainer.callbacks if type(c).__name__ == "RunHistory")
    seconds = [second for _, _, second in history.losses]

    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] <= history.training_seconds
    assert finished.report["seconds_per_step"] > 0


def test_parameters_and_gradients_are_measured(finished: SimpleNamespace) -> None:
    parameters = list(finished.cli.model.parameters())
    size = sum(parameter.numel() for parameter in parameters)

    for name in ("parameter_memory", "gradient_memory"):
        assert finished.report[name] == {"elements": size, "bytes": 4 * size, "megabytes": 4 * size / 2**20}


def test_the_fingerprint_is_that_of_the_saved_weights_and_metrics(finished: SimpleNamespace) -> None:
    fingerprint = finished.report["fingerprint"]

    assert fingerprint["weights"] == weights_sha256(finished.cli.model.state_dict())
    assert fingerprint["weights"] != fingerprint["initial_weights"]
    csv = (finished.folder / "metrics.csv").read_bytes()
    assert fingerprint["metrics"] == hashlib.sha256(csv).hexdigest()
    assert b"test/accuracy" in csv


def test_provenance_names_packages_assets_and_settings(finished: SimpleNamespace, tiny_model: Path) -> None:
    provenance = finished.report["provenance"]

    assert provenance["packages"]["torch"] == importlib.metadata.version("torch")
    assert provenance["assets"] == {str(tiny_model): file_sha256(tiny_model)}
    assert provenance["config"] == "seed_everything: 5\n"
    assert provenance["precision"] == "32-true"
    assert provenance["threads"] == torch.get_num_threads()


def test_lists_of_plain_values_are_on_one_line_of_the_json(finished: SimpleNamespace) -> None:
    text = (finished.folder / "report.json").read_text(encoding="utf-8")

    step, loss, seconds = finished.report["history"]["losses"][0]
    assert f"[{step}, {loss!r}, {seconds!r}]" in text


def test_without_a_test_split_the_report_has_no_test_metrics(tiny_model: Path, wires_csv: Path, tmp_path: Path) -> None:
    cli = run(tiny_model, wires_csv, tmp_path, test=None, max_epochs=1)
    best = torch.load(cli.trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
    torch.nn.init.zeros_(cli.model.model.classifier.weight)
    finish_run(cli)

    folder = Path(cli.trainer.log_dir)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert set(report["metrics"]) == {"val/loss", "val/accuracy", "val/f1"}
    torch.testing.assert_close(cli.model.state_dict()["model.classifier.weight"], best["model.classifier.weight"])


def test_a_run_without_logger_and_checkpoints_reports_its_last_step(
    tiny_model: Path, wires_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "topics" / "version_0"
    folder.mkdir(parents=True)  # as the command line does
    off = {"logger": False, "callbacks": [], "enable_checkpointing": False}
    finish_run(run(tiny_model, wires_csv, tmp_path, **off, default_root_dir=folder, max_steps=7))

    assert sorted(path.name for path in folder.iterdir()) == ["model", "report.json", "report.png"]
    printed = capsys.readouterr().out
    assert "test/accuracy" in printed
    assert "AdamW would hold" in printed


@pytest.mark.parametrize(
    ("cls", "path"), [(torch.optim.AdamW, "torch.optim.AdamW"), (Adafactor, "lightning_adafactor.Adafactor")]
)
def test_an_optimizer_is_named_as_a_yaml_would(cls: type, path: str) -> None:
    assert import_path(cls) == path


def test_the_commit_is_gits(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)

    assert git_commit() == (done.stdout.strip() if done.returncode == 0 else None)


def test_a_report_is_strict_json() -> None:
    text = as_json({"metrics": {"val/loss": float("nan")}, "history": [[1, float("inf"), 0.5]]})
    assert json.loads(text, parse_constant=lambda _: 1 / 0) == {
        "metrics": {"val/loss": None},
        "history": [[1, None, 0.5]],
    }
