"""The commands under FSDP2 and tensor parallelism: rows count once, kills end all, results can be used and repeated."""

import csv
from pathlib import Path

import pandas
import pytest
import yaml

from recipes.cli.main import main
from tests.recipes.sharding import runs
from tests.recipes.sharding.runs import ONE, Run, Strategy, command, train
from tests.recipes.sharding.test_strategies import check_same

FSDP2_ON_3 = Strategy("fsdp2.yaml", 3)
ROWS = 31


@pytest.fixture(scope="module")
def mislabeled(wires: pandas.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv file of a prime number of rows, every fourth of which has the label of another."""
    rows = wires.head(ROWS).copy()
    rows.loc[rows.index % 4 == 0, "desk"] = "tool"
    file = tmp_path_factory.mktemp("mislabeled") / "wires.csv"
    rows.to_csv(file, index=False)
    return file


def evaluated(folder: Path, config: Path, strategy: Strategy, rows: Path, trained: Run) -> tuple[bytes, list[str]]:
    """The metrics of ``test``, and the lines of ``predict``, on 7 batches of these rows."""
    common = [f"--ckpt_path={trained.newest}", "--data.eval_batch_size=5"]
    for words in (["test", f"--data.test={rows}"], ["predict", f"--data.predict={rows}"]):
        ended = command(folder, words[0], config, strategy, *words[1:], *common)
        assert not any(ended.statuses), ended.output[-3000:]
    group = folder / "runs" / config.stem
    predictions = (group / "version_1" / "predictions.csv").read_text(encoding="utf-8")
    return (group / "version_0" / "metrics.csv").read_bytes(), predictions.splitlines()


def cells(lines: list[str]) -> list[float]:
    """The numbers in the lines of a csv file."""
    return [float(cell) for row in csv.reader(lines[1:]) for cell in row if not cell[:1].isalpha()]


@pytest.mark.slow
def test_test_and_predict_count_each_row_once(tiny_lm: Path, wires_csv: Path, mislabeled: Path, tmp_path: Path) -> None:
    # A classifier that is a Llama: BERT has no plan for tensor parallelism.
    config = runs.classifier(tmp_path, tiny_lm, wires_csv)
    trained = train(tmp_path / "trained", config, runs.FSDP2)
    assert not any(trained.statuses), trained.output[-3000:]

    metrics, predictions = evaluated(tmp_path / "1", config, ONE, mislabeled, trained)

    (values,) = csv.DictReader(metrics.decode().splitlines())
    assert 0 < float(values["test/accuracy"]) < 1  # it would tell if rows counted twice
    assert len(predictions) == ROWS + 1
    assert evaluated(tmp_path / "3", config, FSDP2_ON_3, mislabeled, trained) == (metrics, predictions)
    # Tensor parallelism adds the products of a row in another order.
    found, rows = evaluated(tmp_path / "4", config, runs.FSDP2_TP, mislabeled, trained)
    assert cells(found.decode().splitlines()) == pytest.approx(cells(metrics.decode().splitlines()), rel=1e-6)
    assert cells(rows) == pytest.approx(cells(predictions), abs=2e-6)
    assert [line.split(",")[:3] for line in rows] == [line.split(",")[:3] for line in predictions]
    # The weights in model/ are those of the checkpoint.
    used = command(tmp_path / "m", "predict", config, ONE, f"--data.predict={mislabeled}", "--data.eval_batch_size=5",
                   f"--model.pretrained={trained.newest / 'model'}")  # fmt: skip
    assert not any(used.statuses), used.output[-3000:]
    written = tmp_path / "m" / "runs" / config.stem / "version_0" / "predictions.csv"
    assert written.read_text(encoding="utf-8").splitlines() == predictions


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "rank"), [(runs.FSDP2, 1), (runs.TENSOR_PARALLEL, 0)], ids=["fsdp2", "tp"])
def test_a_killed_rank_ends_the_other_and_the_run_goes_on(
    strategy: Strategy, rank: int, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    arguments = {"rank": rank, "step": 3, "kind": "kill"}
    callback = {"class_path": "tests.recipes.raising.TroubleOnRank", "init_args": arguments}
    (tmp_path / "trouble.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}), encoding="utf-8")
    one = train(tmp_path / "1", config, ONE)

    killed = train(tmp_path / "2", config, strategy, f"--config={tmp_path / 'trouble.yaml'}")

    assert killed.statuses == [-9 if number == rank else 1 for number in range(2)]
    said = [line for line in killed.output.splitlines() if "error: " in line]
    assert len(said) == 1
    assert f"error: rank {rank} of 2 has ended without a message" in said[0]
    assert said[0].endswith("resume with --ckpt_path runs/lm/version_0/checkpoints/last.ckpt")

    check_same(one, train(tmp_path / "2", config, strategy, "--ckpt_path=last"), initial=False)


@pytest.mark.slow
def test_a_sharded_run_repeats_bit_for_bit_and_generates(
    tiny_lm: Path,
    tales_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = train(tmp_path / "2", runs.language_model(tmp_path, tiny_lm, tales_csv), runs.FSDP2)
    assert not any(run.statuses), run.output[-3000:]
    assert run.report["provenance"]["processes"] == 2
    assert run.report["total_state"]["elements"] > run.report["optimizer_state"]["elements"]
    assert "optimizer state, all processes" in run.output
    monkeypatch.chdir(run.folder)

    assert main(["reproduce", str(run.newest), "--tolerance", "0"]) == 0
    assert "identical: weights" in capsys.readouterr().out

    assert main(["generate", "--run", str(run.newest), "--prompt", "Once there was", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("Once there was")
