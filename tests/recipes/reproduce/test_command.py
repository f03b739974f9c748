"""A run is repeated from its report alone."""

import json
import shutil
from pathlib import Path

import pandas
import pytest
import yaml

from recipes.cli.main import main
from recipes.reproduce import command as module

WHOLE = {
    "recipe": "cls",
    "fingerprint": {"weights": "w"},
    "metrics": {},
    "history": {"losses": [], "evaluations": []},
    "provenance": {
        **{name: {} for name in ("git", "image", "locks", "assets", "packages", "machine")},
        "command": "python",
        "config": "trainer:",
    },
}


@pytest.fixture
def report(tiny_model: Path, wires_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The report of a run of two steps, whose other files are deleted."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    settings = {
        "threads": 1,
        "trainer": {"max_steps": 2, "deterministic": True, "accelerator": "cpu", "log_every_n_steps": 1},
        "model": {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model)}},
        "data": {
            "class_path": "recipes.TextClassificationData",
            "init_args": {"text": "headline", "label": "desk", "train": str(wires_csv), "test": 0.2, "max_length": 16},
        },
    }
    (tmp_path / "topics.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main(["fit", "--config", "topics.yaml"]) == 0
    kept = tmp_path / "kept.json"
    shutil.move(tmp_path / "runs" / "topics" / "version_0" / "report.json", kept)
    shutil.rmtree(tmp_path / "runs" / "topics" / "version_0")
    (tmp_path / "topics.yaml").unlink()
    return kept


@pytest.mark.slow
def test_a_run_repeats_bit_for_bit_from_another_folder_and_thread_count(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # the settings in the report override it
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    capsys.readouterr()

    assert main(["reproduce", str(report), "--tolerance", "0", "--runs", "again"]) == 0

    assert "identical: weights" in capsys.readouterr().out
    again = json.loads(Path("again/topics/version_0/report.json").read_text(encoding="utf-8"))
    assert again["fingerprint"] == json.loads(report.read_text(encoding="utf-8"))["fingerprint"]


@pytest.mark.slow
def test_other_data_gives_different_results_and_exit_status_1(
    report: Path, wires: pandas.DataFrame, wires_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = json.loads(report.read_text(encoding="utf-8"))
    wires.iloc[::-1].to_csv("other.csv", index=False)
    recorded["provenance"]["config"] = recorded["provenance"]["config"].replace(str(wires_csv), "other.csv")
    report.write_text(json.dumps(recorded), encoding="utf-8")

    assert main(["reproduce", str(report), "--tolerance", "1e-9"]) == 1

    assert "different from step 1: not the same bits (weights, metrics)" in capsys.readouterr().out


def test_check_prints_the_differences_and_does_not_train(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded = json.loads(report.read_text(encoding="utf-8"))
    recorded["provenance"]["packages"]["lightning"] = "0.0"
    report.write_text(json.dumps(recorded), encoding="utf-8")
    capsys.readouterr()

    assert main(["reproduce", str(report), "--check"]) == 0

    assert "differs: package lightning is " in capsys.readouterr().out
    assert not any(Path("runs/topics").iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read as the report.json of a run"),
        ("{", "cannot be read as the report.json of a run"),
        ('{"recipe": "cls"}', "has no 'provenance'"),
        ("[]", "has no 'provenance'"),
        ('{"provenance": null, "fingerprint": {}}', "metrics, history, provenance, "),
        (json.dumps(WHOLE | {"metrics": None}), "is not a valid report: missing or of another type: metrics"),
        (
            json.dumps(WHOLE | {"steps": 1, "history": {"losses": [[1]], "evaluations": []}}),
            "its curves cannot be read",
        ),
        (json.dumps(WHOLE | {"recipe": "../elsewhere"}), "recipe is '../elsewhere', which is no name of a recipe"),
    ],
    ids=[
        "missing",
        "no JSON",
        "of an older version",
        "a list",
        "empty",
        "incomplete",
        "with half a curve",
        "of another folder",
    ],
)
def test_an_invalid_report_is_an_error_in_one_sentence(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")

    assert main(["reproduce", str(file)]) == 2

    assert said in capsys.readouterr().err


def test_a_mistyped_option_is_an_error_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "report.json", "--tolerence", "1"]) == 2

    assert "unrecognized arguments: --tolerence 1; see python -m recipes.reproduce --help" in capsys.readouterr().err


def test_a_run_on_several_machines_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    provenance = {**WHOLE["provenance"], "config": "trainer: {num_nodes: 2}"}  # type: ignore[dict-item]
    (tmp_path / "report.json").write_text(json.dumps({**WHOLE, "provenance": provenance}), encoding="utf-8")

    assert main(["reproduce", str(tmp_path)]) == 2

    assert "the run used 2 machines (trainer.num_nodes)" in capsys.readouterr().err


def test_a_run_on_more_devices_than_this_machine_has_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provenance = {**WHOLE["provenance"], "processes": 10**6, "machine": {"accelerator": "NVIDIA H100"}}  # type: ignore
    (tmp_path / "report.json").write_text(json.dumps({**WHOLE, "provenance": provenance}), encoding="utf-8")

    assert main(["reproduce", str(tmp_path)]) == 2

    assert "the run had 1000000 devices (NVIDIA H100), and this machine has " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("devices", "given"), [("auto", ["--trainer.devices=2"]), ("-1", ["--trainer.devices=2"]), (2, [])]
)
def test_as_many_devices_as_there_are_become_those_of_the_run(
    devices: int | str, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(module, "_run", lambda command: commands.append(command) or 1)
    provenance = {**WHOLE["provenance"], "processes": 2, "config": f"trainer: {{devices: {devices}}}"}  # type: ignore

    assert module.run_again({**WHOLE, "provenance": provenance}, None) is None

    assert [word for word in commands[0] if "devices" in word] == given


def test_a_resumed_run_whose_checkpoint_is_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    provenance = {**WHOLE["provenance"], "config": "ckpt_path: runs/cls/version_0/checkpoints/last.ckpt"}  # type: ignore
    (tmp_path / "report.json").write_text(json.dumps({**WHOLE, "provenance": provenance}), encoding="utf-8")

    assert main(["reproduce", str(tmp_path)]) == 2

    error = capsys.readouterr().err
    assert "ckpt_path is runs/cls/version_0/checkpoints/last.ckpt, from which the run resumed" in error
    assert "or reproduce the first run" in error
