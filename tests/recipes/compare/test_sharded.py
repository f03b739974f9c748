"""A comparison whose runs have two processes each."""

import json
from pathlib import Path

import pytest

from recipes.cli.main import main
from tests.recipes.sharding import runs

TRAINER = Path(__file__).parents[3] / "configs" / "trainer"


@pytest.mark.slow
def test_a_sweep_under_fsdp2_times_chooses_and_stops_what_is_hopeless(
    tiny_lm: Path, tales_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    words = ["--config", str(config), "--config", str(TRAINER / "fsdp2.yaml"), "--trainer.accelerator", "cpu"]
    words += ["--optimizers", "adafactor", "--sweep-lr", "1e-9", "1e-2", "2e-2", "--widen", "0"]
    words += ["--timing-rounds", "1", "--budget-steps", "8", "--data.batch_size", "4", "--out", "out"]

    assert main(["compare", *words]) == 0

    result = json.loads(Path("out/comparison.json").read_text(encoding="utf-8"))
    (row,) = result["optimizers"]
    assert row["lr"] > 1e-9
    hopeless = [run for run in row["runs"] if run["hopeless"]]
    assert [run["lr"] for run in hopeless] == [1e-9]
    assert row["timing"]["seconds_per_step"] > 0
    assert row["total_state"]["elements"] > row["optimizer_state"]["elements"] > 0
    assert "state of all processes, MB" in Path("out/comparison.md").read_text(encoding="utf-8")
    finished = list(Path("out").glob("adafactor/lr-*/*/version_*/report.json"))
    assert len(finished) == 2  # one for each run of two processes that has finished
    log = next(Path("out").glob("adafactor/lr-1e-09*/log.txt")).read_text(encoding="utf-8")
    assert log.count("error: hopeless") == 1
