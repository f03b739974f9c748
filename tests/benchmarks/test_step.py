"""The command: its output, its files and its error messages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import step
from benchmarks.candidates import Candidate

QUICK = ["--device", "cpu", "--model", "tiny", "--repeats", "2", "--warmup", "2"]
ONLY = ["--only", "ours", "ours-constant-lr", "torch-adafactor", "adamw-fused"]


def run(*arguments: object) -> int:
    return step.main([*QUICK, *map(str, arguments)])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("step") / "results"
    assert run(*ONLY, "--dtype", "float32", "bfloat16", "--output", folder) == 0
    return folder


def test_json_holds_the_figures_and_where_they_come_from(results: Path) -> None:
    found = json.loads((results / "step.json").read_text())
    assert found["command"].startswith("python -m benchmarks.step --device cpu --model tiny --repeats 2")
    assert found["versions"]["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["device"]
    assert found["date"]
    assert [cell["dtype"] for cell in found["cells"]] == ["float32", "bfloat16"]
    for cell in found["cells"]:
        rows = {row["name"]: row for row in cell["optimizers"]}
        assert list(rows) == ["ours", "ours-constant-lr", "torch-adafactor", "adamw-fused"]
        assert rows["adamw-fused"]["ratio_to"]["wall"]["adamw-fused"] == 1.0
        assert rows["torch-adafactor"]["ratio_to"]["wall"]["torch-adafactor"] == 1.0
        width = 4 if cell["dtype"] == "float32" else 2
        assert rows["adamw-fused"]["state_bytes"] == 2 * width * cell["elements"] + 4 * cell["tensors"]
        floor = 3 * width * cell["elements"] / cell["bandwidth_bytes_per_second"]
        assert cell["floor_seconds"] == pytest.approx(floor)
        for row in rows.values():
            assert row["seconds"]["wall"]["low"] <= row["seconds"]["wall"]["median"]
            assert row["times_floor"]["wall"] == pytest.approx(row["seconds"]["wall"]["median"] / floor)
            assert len(cell["rounds_microseconds"][row["name"]]["wall"]) == 2


def test_table_names_every_candidate_and_the_floor(results: Path) -> None:
    text = (results / "step.txt").read_text()
    for name in ("ours", "ours-constant-lr", "torch-adafactor", "adamw-fused"):
        assert text.count(f"\n  {name} ") == 2
    assert "÷ floor" in text
    assert "tiny encoder, bfloat16: 431,522 elements in 40 parameters" in text


def test_chart_is_a_picture(results: Path) -> None:
    assert (results / "step.png").read_bytes().startswith(b"\x89PNG")


def test_without_output_only_the_table_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, "RESULTS", tmp_path / "results")
    assert run("--only", "adamw-fused", "--no-output") == 0
    assert "adamw-fused" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_default_folders_are_named_after_device_and_date_and_never_used_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "RESULTS", tmp_path)
    monkeypatch.setattr(step.environment, "device_name", lambda _: "A Fast (TM) Chip")
    monkeypatch.setattr(step, "_draw", lambda *_: "")
    for _ in range(2):
        assert run("--only", "adamw-fused", "--repeats", "1") == 0
    first, second = sorted(folder.name for folder in tmp_path.iterdir())
    assert first.startswith("a-fast-tm-chip-20")
    assert second == f"{first}-2"


def test_existing_output_folder_is_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--output", tmp_path)
    assert "nothing is overwritten; name a new folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "lion"], "--only lion matches none of: ours"),
        (["--repeats", "0"], "--repeats 0: it must be at least 1"),
        (["--model", "bert"], "invalid choice: 'bert'"),
    ],
)
def test_invalid_arguments_are_explained_with_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        step.main(arguments)
    assert sentence in capsys.readouterr().err


def test_cuda_without_a_device_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        step.main(["--device", "cuda"])
    assert "torch finds no CUDA device on this machine; use --device cpu" in capsys.readouterr().err


def test_model_that_does_not_fit_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step.environment, "free_bytes", lambda _: 8 << 30)
    assert step.main(["--device", "cpu", "--model", "llama1b", "--no-output"]) == 2
    said = capsys.readouterr().err
    assert "--model llama1b" in said
    assert "8.0 GiB are free; name fewer of them with --only" in said


def test_wrong_numbers_stop_the_measurement_and_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Candidate("wrong", "torch.optim:AdamW", {"lr": 1e-4, "eps": 1e-2}, "adamw")
    monkeypatch.setattr(step, "all_candidates", lambda _: [wrong])
    assert run("--output", tmp_path / "results") == 1
    assert "wrong is wrong: after 3 steps in float32" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_other_librarys_optimizer_that_cannot_step_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Candidate("broken", "torch.optim:AdamW", {"lr": 1e-4, "no_such_argument": 1}, "adamw")
    fine = Candidate("fine", "torch.optim:AdamW", {"lr": 1e-4}, "adamw")
    monkeypatch.setattr(step, "all_candidates", lambda _: [broken, fine])
    assert run("--no-output") == 0
    said = capsys.readouterr().out
    assert "left out: broken: it fails here: TypeError: " in said
    assert "no_such_argument" in said


def test_profile_shows_operations_and_times_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--only", "adamw-fused", "--profile") == 0
    said = capsys.readouterr().out
    assert "aten::_fused_adamw_" in said
    assert "÷ floor" not in said


ALONE = """
import sys
for name in ("lightning", "pytorch_lightning", "lightning_utilities", "torchmetrics", "transformers",
             "datasets", "accelerate", "rich", "matplotlib", "pandas", "omegaconf", "jsonargparse", "scipy"):
    sys.modules[name] = None
from benchmarks.step import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_it_runs_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    command = [sys.executable, "-c", ALONE, *QUICK, *ONLY, "transformers-adafactor", "--output", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(step.__file__).parents[1], check=False)
    assert done.returncode == 0, done.stderr
    assert "left out: transformers-adafactor: transformers is not installed" in done.stdout
    assert "without a chart, because matplotlib is not installed" in done.stdout
    assert {path.name for path in folder.iterdir()} == {"step.json", "step.txt"}


@pytest.mark.gpu
def test_it_runs_on_a_gpu_with_both_timings_launches_and_waits(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    arguments = ["--device", "cuda", "--model", "tiny", "--repeats", "3", "--output", str(folder)]
    assert step.main(arguments) == 0
    for cell in json.loads((folder / "step.json").read_text())["cells"]:
        for row in cell["optimizers"]:
            assert set(row["seconds"]) == {"queued", "idle", "host"}
            assert row["launches"]["kernels"] >= 1
