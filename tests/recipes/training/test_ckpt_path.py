"""Which checkpoint ``--ckpt_path`` means."""

from pathlib import Path

import pytest

from recipes.messages import RecipeError
from recipes.training.ckpt_path import resolve
from tests.recipes.training.written import flip_a_byte, save, written


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, the newer with a best and a last checkpoint, and one that has only started."""
    save(tmp_path / "cls/version_0/checkpoints/last.ckpt")
    save(tmp_path / "cls/version_9/checkpoints/epoch=1-step=8.ckpt", age=9)
    save(tmp_path / "cls/version_9/checkpoints/last.ckpt")
    (tmp_path / "cls/version_10").mkdir()
    return tmp_path


@pytest.mark.parametrize(("word", "name"), [("best", "epoch=1-step=8.ckpt"), ("last", "last.ckpt")])
def test_best_and_last_mean_the_newest_run_that_kept_a_checkpoint(word: str, name: str, runs: Path) -> None:
    assert resolve(word, "fit", runs, "cls") == str(runs / "cls/version_9/checkpoints" / name)


@pytest.mark.parametrize(("command", "name"), [("fit", "last.ckpt"), ("test", "epoch=1-step=8.ckpt")])
def test_of_a_runs_folder_fit_takes_the_last_and_the_others_the_best(command: str, name: str, runs: Path) -> None:
    folder = runs / "cls/version_9"
    assert resolve(str(folder), command, runs, "other") == str(folder / "checkpoints" / name)


def test_the_last_one_is_used_if_there_is_no_best_one(runs: Path) -> None:
    assert resolve(str(runs / "cls/version_0"), "test", runs, "cls").endswith("version_0/checkpoints/last.ckpt")


def resumed(runs: Path, best: Path) -> Path:
    """A run that resumed another one, whose best checkpoint is still the best."""
    callbacks = {
        "LastCheckpoint{}": {"best_model_path": "last.ckpt"},
        "BestCheckpoint{}": {"best_model_path": str(best)},
    }
    return save(runs / "cls/version_11/checkpoints/last.ckpt", callbacks=callbacks)


def test_the_best_of_a_resumed_run_that_did_not_improve_is_that_of_the_run_before(runs: Path) -> None:
    best = runs / "cls/version_9/checkpoints/epoch=1-step=8.ckpt"
    resumed(runs, best)
    assert resolve("best", "test", runs, "cls") == str(best)


def test_where_the_best_of_the_run_before_is_gone_the_last_one_is_used_with_a_note(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = resumed(runs, runs / "moved.ckpt")
    assert resolve("best", "test", runs, "cls") == str(last)
    assert "moved.ckpt, which is gone: last.ckpt is used instead" in capsys.readouterr().err


def test_of_several_the_best_is_the_recorded_one(runs: Path) -> None:
    folder = runs / "cls/version_9/checkpoints"
    best = save(folder / "epoch=2-step=12.ckpt", age=5)
    save(folder / "epoch=3-step=16.ckpt", age=2)
    callbacks = {"BestCheckpoint{}": {"best_model_path": f"/moved/since/{best.name}"}}
    save(folder / "last.ckpt", callbacks=callbacks)
    assert resolve("best", "test", runs, "cls") == str(best)


def test_a_slash_in_the_name_of_a_metric_makes_a_folder_of_the_best(runs: Path) -> None:
    best = save(runs / "cls/version_10/checkpoints/epoch=2-val/f1=0.90.ckpt", age=5)
    save(runs / "cls/version_10/checkpoints/last.ckpt")
    assert resolve("best", "test", runs, "cls") == str(best)


def test_files_and_urls_are_not_changed(runs: Path) -> None:
    path = str(runs / "cls/version_0/checkpoints/last.ckpt")
    for given in (path, "s3://bucket/last.ckpt", "registry:model", "hpc"):
        assert resolve(given, "fit", runs, "cls") == given


@pytest.mark.parametrize("given", ["nowhere.ckpt", "best"])
def test_a_missing_checkpoint_is_an_error(given: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"--ckpt_path {given}: no "):
        resolve(given, "fit", tmp_path, "cls")


@pytest.mark.parametrize("word", ["last", "best"])
def test_a_corrupted_checkpoint_is_replaced_by_the_newest_valid_one_with_a_note(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cls/version_0/checkpoints"
    best, last = written(folder / "epoch=0.ckpt"), written(folder / "last.ckpt")
    corrupted, other = (last, best) if word == "last" else (best, last)
    flip_a_byte(corrupted)
    assert resolve(word, "fit", tmp_path, "cls") == str(other)
    assert f"{corrupted.name} in {folder} cannot be read, {other.name} is used instead" in capsys.readouterr().err


def test_a_truncated_checkpoint_without_a_checksum_gives_way_too(tmp_path: Path) -> None:
    folder = tmp_path / "cls/version_0/checkpoints"
    best, last = written(folder / "epoch=0.ckpt"), written(folder / "last.ckpt")
    last.write_bytes(last.read_bytes()[:100])
    (folder / "last.ckpt.sha256").unlink()
    assert resolve(str(folder.parent), "fit", tmp_path, "cls") == str(best)


def test_a_run_that_left_none_is_named_with_the_older_one_and_the_settings_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "cls/version_0/checkpoints/last.ckpt")
    (tmp_path / "cls/version_1").mkdir()
    (tmp_path / "cls/version_0/config.yaml").write_text("model: {lr: 0.1}\nckpt_path: null\n")
    (tmp_path / "cls/version_1/config.yaml").write_text("model: {lr: 0.2}\nckpt_path: x\n")
    resolve("last", "fit", tmp_path, "cls")
    said = capsys.readouterr().err
    assert f"{tmp_path / 'cls/version_1'}, the newest run, has no checkpoint to resume from" in said
    assert f"of the older run {tmp_path / 'cls/version_0'}, which had model.lr 0.1 instead of 0.2\n" in said


def test_a_folder_that_is_no_run_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").mkdir()
    with pytest.raises(RecipeError, match=r"x\.ckpt: a folder, and neither that of a run"):
        resolve(str(tmp_path / "x.ckpt"), "fit", tmp_path, "cls")


# What a checkpoint holds


def test_a_home_folder_is_found(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(runs))
    file = "cls/version_0/checkpoints/last.ckpt"
    assert resolve(f"~/{file}", "fit", runs, "cls") == str(runs / file)
