"""The compare command: what it runs, keeps, chooses, writes and prints."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import yaml

from recipes.cli.main import main
from recipes.compare import plot, writing
from tests.recipes.compare.commands import FAKE, ROOT, calls, compare, comparison, recipe, row


def test_each_optimizer_is_trained_with_the_rate_of_its_file_and_the_recipes_seed(folder: Path) -> None:
    assert compare("adafactor", "adamw") == 0

    assert calls() == ["adafactor 0.0003 42", "adamw 0.0001 42"]
    assert row("adafactor")["optimizer_state"]["megabytes"] == 0.5
    assert row("adamw")["optimizer_state"]["megabytes"] == 512.0
    assert "Learning rates were not swept" in " ".join(comparison()["remarks"])


def test_it_writes_json_markdown_and_a_chart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "draw", plot.draw)
    assert compare("adafactor", "adamw", "--out", "there") == 0

    assert Path("there/comparison.png").read_bytes().startswith(b"\x89PNG")
    markdown = Path("there/comparison.md").read_text(encoding="utf-8")
    assert (
        "python -m recipes.compare --config some.yaml --optimizers adafactor adamw --out there --timing-rounds 0"
        in markdown
    )
    assert "| adamw | 0.0001 | 134,217,728 | 512.00 | 256.00 | 256.00 |" in markdown
    assert comparison("there")["recipe"] == "some"


def test_a_finished_run_is_not_trained_again(folder: Path, capsys: pytest.CaptureFixture) -> None:
    compare("adafactor", "adamw", "--seeds", "1")
    before = comparison()
    calls()

    assert compare("adafactor", "adamw", "--seeds", "1") == 0
    assert calls() == []
    assert comparison() == before
    assert "already finished, kept" in capsys.readouterr().out

    assert compare("adafactor", "adamw", "--seeds", "1", "2") == 0
    assert calls() == ["adafactor 0.0003 2", "adamw 0.0001 2"]


def test_other_settings_make_other_runs_and_nothing_is_overwritten(folder: Path) -> None:
    compare("adamw")
    reports = {file: file.read_bytes() for file in Path("runs").rglob("report.json")}
    calls()

    recipe(task="cls")
    compare("adamw")
    assert calls() == ["adamw 0.0001 42"]
    compare("adamw", "--trainer.max_steps", "9")
    assert calls() == ["adamw 0.0001 42"]

    assert all(file.read_bytes() == content for file, content in reports.items())
    assert Path("runs/compare-some/comparison_1.md").exists()
    assert "(comparison_1.png)" in Path("runs/compare-some/comparison_1.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("options", "kept"), [([], False), (["--keep-models"], True)])
def test_weights_are_kept_only_on_request(folder: Path, options: list[str], kept: bool) -> None:
    assert compare("adamw", *options) == 0
    assert compare("adamw") == 0  # deletes nothing that an earlier call kept
    (run,) = Path("runs").rglob("version_0")
    assert [(run / name).exists() for name in ("checkpoints", "model", "report.json")] == [kept, kept, True]


def test_the_sweep_chooses_by_validation_with_the_first_seed_and_then_trains_the_other_seeds(folder: Path) -> None:
    # fake_fit's test metrics increase with the rate; its validation metric is best at 3e-4.
    assert compare("adamw", "--seeds", "5", "6", "--sweep-lr", "1e-4", "3e-4", "1e-3") == 0

    assert calls() == ["adamw 0.0003 5", "adamw 0.0001 5", "adamw 0.001 5", "adamw 0.0003 6"]
    assert row("adamw")["lr"] == 3e-4
    assert [tried["chosen"] for tried in row("adamw")["sweep"]] == [False, True, False]
    assert row("adamw")["metrics"]["test/f1"]["n"] == 2
    assert "highest val/f1 (seed 5)" in " ".join(comparison()["remarks"])


def test_a_sweep_without_values_multiplies_each_files_rate(folder: Path) -> None:
    assert compare("adafactor", "adamw", "--sweep-lr", widen=0) == 0

    assert calls() == [
        *("adafactor 0.0003 42", "adafactor 9e-05 42", "adafactor 0.0009 42"),
        *("adamw 0.0001 42", "adamw 3e-05 42", "adamw 0.0003 42"),
    ]
    assert (row("adafactor")["lr"], row("adamw")["lr"]) == (3e-4, 3e-4)
    assert "adamw's learning rate is the highest one tried" in " ".join(comparison()["remarks"])


def test_a_sweep_goes_on_beyond_the_best_rate_until_it_lies_inside(folder: Path) -> None:
    assert compare("adamw", "--sweep-lr", "3e-5", "6e-5", "1.2e-4") == 0

    assert calls() == [f"adamw {rate} 42" for rate in ("6e-05", "3e-05", "0.00012", "0.00024", "0.00048")]
    assert row("adamw")["lr"] == 2.4e-4
    assert [tried["lr"] for tried in row("adamw")["sweep"]] == [3e-5, 6e-5, 1.2e-4, 2.4e-4, 4.8e-4]
    assert "one tried" not in " ".join(comparison()["remarks"])


def test_a_sweep_stops_widening_at_its_limit_and_says_that_the_best_rate_is_at_the_edge(folder: Path) -> None:
    assert compare("adamw", "--sweep-lr", "1e-3", "2e-3", widen=1) == 0
    assert calls() == ["adamw 0.001 42", "adamw 0.002 42", "adamw 0.0005 42"]
    assert "adamw's learning rate is the lowest one tried" in " ".join(comparison()["remarks"])


def test_a_hopeless_run_of_a_sweep_is_stopped_and_not_run_again(folder: Path, capsys: pytest.CaptureFixture) -> None:
    rates = ["3e-5", "3e-4", "3e-3"]
    assert compare("adamw", "--sweep-lr", *rates) == 0
    assert "stopped: hopeless: val/f1 is below" in capsys.readouterr().out
    assert [run["hopeless"] for run in row("adamw")["runs"]] == [False, True, True]
    remarks = " ".join(comparison()["remarks"])
    assert "2 runs of sweeps were stopped early" in remarks
    assert "adamw's learning rate is the lowest one that finished: those beyond it did not" in remarks
    assert len(calls()) == 3

    assert compare("adamw", "--sweep-lr", *rates) == 0
    assert calls() == []


def test_hopeless_runs_are_trained_to_their_end_on_request(folder: Path) -> None:
    assert compare("adamw", "--sweep-lr", "3e-5", "3e-4", "3e-3", "--keep-hopeless") == 0
    assert [run["finished"] for run in row("adamw")["runs"]] == [True] * 3


def test_time_and_memory_come_from_timing_runs_of_all_optimizers_in_turn(folder: Path) -> None:
    assert compare("adafactor", "adamw", timing_rounds=2) == 0

    timing = ["adafactor timing 42", "adamw timing 42"]
    assert calls() == [*timing, *timing, "adafactor 0.0003 42", "adamw 0.0001 42"]
    timed = row("adamw")["timing"]
    assert timed["each_seconds_per_step"] == [2.0, 2.0]
    assert row("adamw")["seconds_per_step"] == timed["seconds_per_step"] == 2.0
    assert len(timed["other_cores"]) == 2
    assert len(row("adamw")["runs"]) == 1
    assert "timing runs of 20 steps" in " ".join(comparison()["remarks"])


def test_a_budget_of_steps_is_the_length_of_every_training(folder: Path) -> None:
    assert compare("adamw", "--budget-steps", "70") == 0
    assert calls() == ["adamw 0.0001 42 70 steps"]
    assert comparison()["budget"] == {"steps": 70}


def test_a_budget_of_seconds_becomes_the_steps_that_an_optimizer_takes_in_them(folder: Path) -> None:
    assert compare("adamw", "--budget-seconds", "61", timing_rounds=1) == 0
    assert calls() == ["adamw timing 42", "adamw 0.0001 42 30 steps"]  # of 2 seconds each
    assert comparison()["budget"] == {"seconds": 61.0}


def test_with_several_seeds_it_says_what_can_be_concluded(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert compare("adafactor", "adamw", "--seeds", "1", "2", "3") == 0
    (pair,) = comparison()["pairs"]
    assert (pair["better"], pair["worse"], pair["seeds"]) == ("adafactor", "adamw", [1, 2, 3])
    needed = next(each for each in comparison()["remarks"] if "is needed for a conclusion" in each)
    assert needed.startswith("With 3 seeds and 1 pair, a difference in test/f1 of about ")
    assert comparison()["conclusion"] in capsys.readouterr().out
    assert "## Differences in test/f1" in Path("runs/compare-some/comparison.md").read_text(encoding="utf-8")


def test_a_sweep_needs_a_validation_metric(folder: Path, capsys: pytest.CaptureFixture) -> None:
    recipe(validates=False)
    assert compare("adamw", "--sweep-lr", "1e-4", "1e-3") == 2
    assert len(calls()) == 1, "the others would be trained in vain"
    said = capsys.readouterr().err
    assert "holds no validation metric to choose a learning rate by: give the recipe a validation split, or" in said


def test_a_failed_run_is_a_row_with_the_reason_and_the_others_continue(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe(fails={"adamw": 1})
    assert compare("adamw", "adafactor", "--seeds", "1", "2") == 0

    assert calls() == ["adamw 0.0001 1", "adafactor 0.0003 1", "adamw 0.0001 2", "adafactor 0.0003 2"]
    assert [run["reason"] for run in row("adamw")["runs"]] == ["a sentence that says why"] * 2
    line = next(line for line in Path("runs/compare-some/comparison.md").read_text().splitlines() if "| adamw" in line)
    assert "failed: a sentence that says why" in line
    assert "adamw, lr 0.0001, seed 1 did not finish: a sentence that says why" in capsys.readouterr().out


def test_a_failed_run_is_run_again(folder: Path) -> None:
    recipe(fails={"adamw": 1})
    compare("adamw", "adafactor")
    calls()
    compare("adamw", "adafactor")
    assert calls() == ["adamw 0.0001 42"]


def test_an_optimizer_with_invalid_settings_is_run_once(folder: Path) -> None:
    recipe(fails={"adamw": 2})
    assert compare("adamw", "adafactor", "--seeds", "1", "2", "--sweep-lr", "1e-4", "3e-4", widen=0) == 0
    assert calls() == ["adamw 0.0001 1", "adafactor 0.0001 1", "adafactor 0.0003 1", "adafactor 0.0003 2"]


@pytest.mark.parametrize("status", [1, 2])
def test_the_exit_status_says_that_no_run_finished(folder: Path, status: int, capsys: pytest.CaptureFixture) -> None:
    recipe(fails={"adamw": status, "adafactor": status})
    assert compare("adamw", "adafactor") == status
    assert "error: no run finished: a sentence that says why (logs in runs/compare-some)" in capsys.readouterr().err
    assert not Path("runs/compare-some/comparison.json").exists()


def test_the_metrics_are_known_from_the_reports_alone(folder: Path) -> None:
    recipe(task="lm")
    assert compare("adafactor", "adamw", "--seeds", "1", "2", "--sweep-lr", "1e-4", "3e-4", widen=0) == 0

    assert comparison()["quality"] == ["test/perplexity"]
    assert comparison()["main_quality"] == "test/perplexity"
    assert comparison()["monitor"] == {"name": "val/loss", "mode": "min"}
    assert row("adamw")["lr"] == 3e-4
    assert row("adamw")["metrics"]["test/perplexity"]["mean"] == pytest.approx(22.15)


def test_different_initial_weights_are_the_first_remark_and_a_warning(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe(weights="by optimizer")
    assert compare("adafactor", "adamw") == 0
    assert comparison()["same_initial_weights"] == {"42": False}
    assert comparison()["remarks"][0].startswith("WARNING: with seed 42 the runs did not start from the same weights")
    assert "WARNING" in capsys.readouterr().out


def test_ctrl_c_stops_the_run_and_says_how_to_continue(folder: Path) -> None:
    recipe(waits=300)
    program = (
        "import sys; "
        f"from recipes.compare import plan; plan.FIT = [sys.executable, {FAKE!r}]; "
        "from recipes.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            program,
            "compare",
            "--config",
            "some.yaml",
            "--optimizers",
            "adamw",
            "--timing-rounds",
            "0",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 300
    while not Path("calls.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)

    assert process.returncode == 130
    assert "0 of 1 runs are finished and kept in runs/compare-some; to continue, repeat the command: python -m" in said
    assert "Traceback" not in said
    recipe()
    assert compare("adamw") == 0


@pytest.mark.slow
def test_a_comparison_of_real_runs(
    tiny_model: Path, wires: pandas.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RUNS_DIR", raising=False)
    wires.to_csv("wires.csv", index=False)
    settings = {
        "threads": 1,
        "trainer": {"accelerator": "cpu", "val_check_interval": 4, "log_every_n_steps": 1},
        "model": {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model), "warmup": 0}},
        "data": {
            "class_path": "recipes.TextClassificationData",
            "init_args": {
                **{"train": "wires.csv", "validation": 0.3, "test": 0.2, "text": "headline", "label": "desk"},
                **{"max_length": 16, "batch_size": 8},
            },
        },
    }
    Path("tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = ["compare", "--config", "tiny.yaml", "--optimizers", "adafactor", "adamw", "--budget-steps", "32"]
    command += ["--timing-rounds", "1", "--sweep-lr", "1e-9", "2e-2", "4e-2", "--widen", "0"]

    assert main(command) == 0

    result = json.loads(Path("runs/compare-tiny/comparison.json").read_text(encoding="utf-8"))
    assert result["same_initial_weights"] == {"42": True}
    adafactor, adamw = result["optimizers"]
    assert adamw["optimizer_state"] == adamw["adamw_state"] == adafactor["adamw_state"]
    assert 0 < adafactor["optimizer_state"]["bytes"] < adamw["optimizer_state"]["bytes"]
    assert adafactor["steps"] == adamw["steps"] == 32
    assert adafactor["gradient_memory"] == adafactor["parameter_memory"]
    assert set(result["quality"]) == {"test/accuracy", "test/f1"}
    assert Path("runs/compare-tiny/comparison.png").exists()
    assert all(row["timing"]["seconds_per_step"] > 0 for row in (adafactor, adamw))
    slowest = next(run for run in adafactor["runs"] if run["lr"] == 1e-9)
    assert slowest["hopeless"]
    assert slowest["reason"].startswith("hopeless: val/f1 has reached")


def test_a_second_comparison_in_the_same_folder_ends_with_a_sentence(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe(waits=300)
    arguments = ["--config", "some.yaml", "--optimizers", "adamw", "--out", "there", "--timing-rounds", "0"]
    source = f"import sys; from recipes.compare import plan; plan.FIT = [sys.executable, {FAKE!r}]; "
    source += f"from recipes.cli.main import main; sys.exit(main(['compare', *{arguments!r}]))"
    first = subprocess.Popen([sys.executable, "-c", source], env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        deadline = time.monotonic() + 300
        while not Path("calls.txt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert compare("adamw", "--out", "there") == 2
        said = capsys.readouterr().err
        assert f"another comparison, process {first.pid}, is running in there" in said
    finally:
        first.terminate()
        first.wait(300)
    recipe()
    assert compare("adamw", "--out", "there") == 0
