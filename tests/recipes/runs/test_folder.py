"""The folder of a run."""

import subprocess
import sys
from pathlib import Path

import pytest

from recipes.messages import RecipeError
from recipes.runs.folder import claim, config_name, give_back, next_folder, runs_root, versions


def test_the_first_run_of_a_recipe_is_version_0(tmp_path: Path) -> None:
    run = claim(tmp_path / "runs", "cls")
    assert run.path == tmp_path / "runs" / "cls" / "version_0"
    assert run.path.is_dir()


def test_the_next_run_gets_the_number_after_the_highest(tmp_path: Path) -> None:
    for taken in ("version_0", "version_10", "version_x", "notes"):
        (tmp_path / "cls" / taken).mkdir(parents=True)
    assert claim(tmp_path, "cls").version == 11
    assert versions(tmp_path, "cls") == [0, 10, 11]


def test_recipes_count_separately(tmp_path: Path) -> None:
    claim(tmp_path, "cls")
    assert claim(tmp_path, "lm").version == 0


def test_asking_for_the_next_folder_does_not_create_it(tmp_path: Path) -> None:
    assert next_folder(tmp_path, "cls").version == 0
    assert not (tmp_path / "cls").exists()


def test_processes_that_start_at_the_same_time_get_different_folders(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib\n"
        "from recipes.runs.folder import claim\n"
        "sys.stdin.readline()\n"
        "for _ in range(20): print(claim(pathlib.Path(sys.argv[1]), 'cls').version)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = [int(line) for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert sorted(taken) == list(range(60))


def test_the_folder_of_a_run_that_wrote_nothing_is_removed(tmp_path: Path) -> None:
    give_back(claim(tmp_path / "runs", "cls"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_folder_of_a_run_that_wrote_something_is_kept(tmp_path: Path) -> None:
    run = claim(tmp_path, "cls")
    (run.path / "config.yaml").touch()
    give_back(run)
    assert (run.path / "config.yaml").exists()


@pytest.mark.parametrize("parent", ["/proc/runs", "file/runs"])
def test_a_folder_that_cannot_be_written_is_named(parent: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"runs.cls.version_N cannot be created .*--trainer\.default_root_dir"):
        claim(tmp_path / parent, "cls")


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("cls.yaml", "cls"),
        ("configs/cls_20news.yaml", "cls_20news"),
        ("runs/cls/version_3/config.yaml", "cls"),
        ("elsewhere/config.yaml", "config"),
        (None, "run"),
    ],
)
def test_the_group_is_named_after_the_first_config(config: str | None, name: str) -> None:
    assert config_name(config) == name


def test_the_root_is_from_the_trainer_else_from_the_variable_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNS_DIR", raising=False)
    assert runs_root() == Path("runs")
    monkeypatch.setenv("RUNS_DIR", "/data/runs")
    assert runs_root() == Path("/data/runs")
    assert runs_root("mine") == Path("mine")
