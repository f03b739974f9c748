"""The commands on one, two and three processes: the same metrics and predictions, each row once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.recipes.killed_fit import start_ranks

ROOT = Path(__file__).parents[2]


def end(folder: Path, processes: int, *words: str) -> tuple[list[int | None], str]:
    """Runs a command on several processes; returns their exit statuses, None for one that hangs, and their output."""
    shared = [f"--trainer.devices={processes}", f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}"]
    started = start_ranks(folder, processes, *words, *shared)
    for process in started:
        process.join(600)
    statuses = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return statuses, (folder / "output.txt").read_text(encoding="utf-8")


def run(folder: Path, processes: int, *words: str) -> None:
    statuses, output = end(folder, processes, *words)
    assert statuses == [0] * processes, output[-3000:]


@pytest.mark.slow
def test_test_and_predict_are_the_same_on_one_two_and_three_processes(
    tiny_model: Path, wires_csv: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.csv"
    few.write_text("\n".join(wires_csv.read_text(encoding="utf-8").splitlines()[:3]) + "\n", encoding="utf-8")
    settings = {
        "trainer": {"accelerator": "cpu", "max_steps": 4, "enable_model_summary": False},
        "model": {"class_path": "recipes.TextClassifier", "init_args": {"pretrained": str(tiny_model)}},
        "data": {
            "class_path": "recipes.TextClassificationData",
            "init_args": {"train": str(wires_csv), "text": "headline", "label": "desk", "validation": 0.1, "test": 0.3},
        },
    }
    settings["data"]["init_args"] |= {"max_length": 16, "eval_batch_size": 5, "predict": str(wires_csv)}  # type: ignore
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    run(tmp_path, 1, "fit", "--config=c.yaml")
    checkpoint = f"--ckpt_path={tmp_path}/runs/c/version_0/checkpoints/last.ckpt"

    results = []
    for processes in (1, 2, 3):
        folder = tmp_path / str(processes)
        for words in (["test"], ["predict"], ["predict", f"--data.predict={few}"]):
            run(folder, processes, words[0], f"--config={tmp_path}/c.yaml", checkpoint, *words[1:])
        files = ("version_0/metrics.csv", "version_1/predictions.csv", "version_2/predictions.csv")
        results.append([(folder / "runs/c" / file).read_bytes() for file in files])

    assert results[0] == results[1] == results[2]
    assert len(results[0][1].splitlines()) == 121
    assert len(results[0][2].splitlines()) == 3


def troubled(folder: Path, rank: int, kind: str) -> list[str]:
    """Options of a training on two processes of 8 steps an epoch, one of which has trouble in step 10."""
    arguments = {"rank": rank, "step": 10, "kind": kind}
    callback = {"class_path": "tests.recipes.raising.TroubleOnRank", "init_args": arguments}
    (folder / "trouble.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}), encoding="utf-8")
    return ["fit", "--config=tiny.yaml", "--config=trouble.yaml", "--data.size=64"]


def trouble(folder: Path, rank: int, kind: str) -> tuple[list[int | None], list[str]]:
    """Statuses and last lines of such a training."""
    statuses, output = end(folder, 2, *troubled(folder, rank, kind))
    return statuses, said(output)


def said(output: str) -> list[str]:
    """The lines of an output that say why a run has ended."""
    return [line for line in output.splitlines() if any(word in line for word in ("error: ", "stopped", "interrupted"))]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_other_with_one_sentence(rank: int, tiny_recipe: Path) -> None:
    statuses, lines = trouble(tiny_recipe, rank, "kill")

    assert statuses == [-9 if number == rank else 1 for number in range(2)]
    assert len(lines) == 1
    assert f"error: rank {rank} of 2 has ended without a message" in lines[0]
    assert lines[0].endswith("resume with --ckpt_path runs/tiny/version_0/checkpoints/last.ckpt")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("kind", "status", "sentence"),
    [
        ("error", 1, "TroubleOnRank.on_train_batch_end): ArithmeticError"),
        ("mistake", 2, "error: data.train: this rank has a bad row"),
        ("full", 1, "is full: free some space"),
    ],
)
def test_an_error_on_one_rank_is_one_sentence_and_one_status(
    rank: int, kind: str, status: int, sentence: str, tiny_recipe: Path
) -> None:
    statuses, lines = trouble(tiny_recipe, rank, kind)

    assert statuses == [status, status]
    assert len(lines) == 1
    assert sentence in lines[0]
    files = [path.name for path in tiny_recipe.glob("runs/*/*/error*.txt")]
    assert files == (["error.rank_1.txt" if rank else "error.txt"] if kind == "error" else [])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138)])
def test_a_signal_to_one_rank_stops_both_after_the_same_step(kind: str, status: int, tiny_recipe: Path) -> None:
    statuses, lines = trouble(tiny_recipe, 1, kind)

    assert statuses == [status, status]
    assert len(lines) == 1, lines
    kept = torch.load(next(tiny_recipe.glob("runs/*/*/checkpoints/last.ckpt")), weights_only=True)
    assert kept["global_step"] == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [["-m", "recipes"], ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "recipes"]]
)
@pytest.mark.parametrize(("rank", "kind"), [(0, "kill"), (1, "kill"), (1, "mistake")])
def test_lightnings_launcher_and_torchrun_end_with_one_sentence_too(
    launcher: list[str], rank: int, kind: str, tiny_recipe: Path
) -> None:
    words = [*launcher, *troubled(tiny_recipe, rank, kind), "--trainer.devices=2", "--trainer.strategy=ddp"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/recipes'}", "OMP_NUM_THREADS": "1"}

    with subprocess.Popen([sys.executable, *words], env=environment, stderr=subprocess.PIPE, text=True) as process:
        _, messages = process.communicate(timeout=600)  # until the other rank has closed its standard error too

    own = [line for line in said(messages) if "torch/distributed" not in line and "torchelastic" not in line]
    assert len(own) == 1, messages
    assert f"error: rank {rank} of 2 " in own[0] if kind == "kill" else "this rank has a bad row" in own[0]
    by_lightning = -9 if (rank, kind) == (0, "kill") else 2 if kind == "mistake" else 1
    assert process.returncode == (1 if len(launcher) > 2 else by_lightning)
