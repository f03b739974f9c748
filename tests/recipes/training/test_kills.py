"""Runs that are killed at random moments and resumed end with the weights of a run that nobody touched, bit for bit."""

import json
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.recipes.killed_fit import start, start_ranks

KILLS = {1: 10, 2: 5}
"""Of each recipe, by the number of processes."""
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
SECONDS = 300


@pytest.fixture
def configurations(
    tiny_model: Path, wires_csv: Path, tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> dict[str, Path]:
    """A classifier with dropout that accumulates gradients, and a language model; each with many validations."""
    common = {"accelerator": "cpu", "max_epochs": 3, "enable_model_summary": False, "log_every_n_steps": 1}
    recipes: dict[str, dict[str, Any]] = {
        "cls": {
            "trainer": {**common, "val_check_interval": 4, "accumulate_grad_batches": 2},
            "model": {
                "class_path": "recipes.TextClassifier",
                "init_args": {"pretrained": str(tiny_model), "dropout": 0.3},
            },
            "data": {
                "class_path": "recipes.TextClassificationData",
                "init_args": {"train": str(wires_csv), "text": "headline", "label": "desk", "max_length": 16},
            },
        },
        "lm": {
            "trainer": {**common, "val_check_interval": 3},
            "model": {
                "class_path": "recipes.LanguageModel",
                "init_args": {"pretrained": str(tiny_lm), "evaluate_before": False},
            },
            "data": {
                "class_path": "recipes.LanguageModelingData",
                "init_args": {"train": str(tales_csv), "text": "Content", "block_size": 16},
            },
        },
    }
    files = {}
    for name, settings in recipes.items():
        settings["data"]["init_args"] |= {"validation": 0.2, "test": 0.1, "batch_size": 4}
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(yaml.safe_dump(settings), encoding="utf-8")
    return files


def result(folder: Path) -> dict[str, Any] | None:
    """The fingerprint of the best weights and the test's metrics of the newest run; None if it has no report."""
    reports = sorted(folder.glob("runs/*/version_*/report.json"))
    if not reports:
        return None
    report = json.loads(reports[-1].read_text(encoding="utf-8"))
    return {"weights": report["fingerprint"]["weights"], "metrics": report["metrics"], "steps": report["steps"]}


def begin(folder: Path, processes: int, *options: str) -> list[BaseProcess]:
    """Starts a run on one process or, with DDP, on two."""
    if processes == 1:
        return [start(folder, *options)]
    ddp = [f"--trainer.devices={processes}", "--trainer.strategy=ddp", "--trainer.val_check_interval=3"]
    return start_ranks(folder, processes, "fit", *options, *ddp)


def saved(folder: Path) -> bool:
    return any(folder.glob("runs/*/version_*/checkpoints/last.ckpt"))


def killed(
    folder: Path, config: Path, moment: float, seconds: float, signum: signal.Signals, processes: int, victim: int
) -> bool:
    """Kills a run at a moment between its first checkpoint (0) and its end (1); false if it was over before.

    Args:
        folder: Its working folder.
        config: Its configuration.
        moment: The moment.
        seconds: How long an untouched run takes between both.
        signum: The signal that it receives.
        processes: The number of its processes.
        victim: The one that receives the signal; the others have to end by themselves.
    """
    started = begin(folder, processes, "--config", str(config))
    deadline = time.monotonic() + SECONDS
    while started[0].is_alive() and not saved(folder) and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(moment * seconds)
    alive = all(process.is_alive() for process in started)
    if alive:
        os.kill(started[victim].pid or 0, signum)
    for process in started:
        process.join(SECONDS)
    assert not any(process.is_alive() for process in started), "the other process did not end"
    return alive


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", ["cls", "lm"])
def test_runs_killed_at_random_moments_resume_to_the_bit(
    name: str, processes: int, configurations: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, kills = configurations[name], KILLS[processes]
    started = begin(tmp_path / "whole", processes, "--config", str(config))
    while started[0].is_alive() and not saved(tmp_path / "whole"):
        time.sleep(0.002)
    first = time.monotonic()
    for process in started:
        process.join(SECONDS)
    seconds = time.monotonic() - first
    whole = result(tmp_path / "whole")
    assert whole is not None, (tmp_path / "whole" / "output.txt").read_text()

    seed = random.SystemRandom().randrange(2**32)
    generator = random.Random(seed)
    outcomes: list[str] = []
    for number in range(kills):
        folder = tmp_path / f"killed_{number}"
        # One moment in each part of the run, from the first checkpoint to the report.
        moment = (number + generator.random()) / kills * 0.95
        signum = SIGNALS[number % len(SIGNALS)]
        alive = killed(folder, config, moment, seconds, signum, processes, number % processes)
        resumed = begin(folder, processes, "--config", str(config), "--ckpt_path", "last")
        for process in resumed:
            process.join(SECONDS)
        exact = all(process.exitcode == 0 for process in resumed) and result(folder) == whole
        outcomes.append(
            f"{signum.name} at {moment:.3f}{'' if alive else ' (over)'}: {'exact' if exact else 'DIFFERENT'}"
        )
    number_exact = sum(outcome.endswith(": exact") for outcome in outcomes)
    with capsys.disabled():
        print(f"\n{name} on {processes}: {number_exact} of {kills} runs resumed to the bit; seed {seed}")
        print("; ".join(outcomes))
    assert number_exact == kills, outcomes
    assert sum("(over)" in outcome for outcome in outcomes) < kills, outcomes
