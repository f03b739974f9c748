"""torchrun and SLURM start a run on two machines, as the head of ``configs/trainer/multi_node.yaml`` says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.ports import free_port
from tests.recipes.killed_fit import start_tasks
from tests.recipes.sharding import runs
from tests.recipes.sharding.runs import ONE, Run, train

ROOT = Path(__file__).parents[2]


def two_machines(config: Path) -> list[str]:
    """The options of a run with one process on each of two machines."""
    return [
        *("--config", str(config), "--config", str(ROOT / "configs" / "trainer" / "multi_node.yaml")),
        *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--data.batch_size", "4"),
        *("--trainer.strategy.init_args.data_parallel_size", "2"),
    ]


def check_one_run(folder: Path, one: Run) -> None:
    """Checks that two processes have written one run, which is that of one process."""
    assert len(list(folder.glob("runs/*/*/report.json"))) == 1
    two = Run(folder)
    assert two.report["provenance"]["processes"] == 2
    torch.testing.assert_close(two.report["metrics"], one.report["metrics"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_torchrun_on_two_machines_trains_one_run(tiny_lm: Path, tales_csv: Path, tmp_path: Path) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    one = train(tmp_path / "one", config, ONE)
    folder = tmp_path / "two"
    folder.mkdir()
    common = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    common += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    agents = [
        subprocess.Popen(
            [*common, "--node-rank", str(node), "-m", "recipes.fit", *two_machines(config)],
            cwd=folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    messages = [agent.communicate(timeout=300)[1] for agent in agents]

    assert [agent.returncode for agent in agents] == [0, 0], messages
    assert [path.name for path in folder.glob("runs/*/*")] == ["version_0"]
    check_one_run(folder, one)


@pytest.mark.slow
def test_a_slurm_job_that_is_requeued_by_a_signal_goes_on_by_itself(
    tiny_lm: Path, tales_csv: Path, tmp_path: Path
) -> None:
    config = runs.language_model(tmp_path, tiny_lm, tales_csv)
    one = train(tmp_path / "one", config, ONE)
    signalled = {"class_path": "tests.recipes.raising.TroubleOnRank"}
    arguments = {"rank": 1, "step": 3, "kind": "SIGUSR1"}
    trouble = {"trainer": {"callbacks": [{**signalled, "init_args": arguments}]}}
    (tmp_path / "trouble.yaml").write_text(yaml.safe_dump(trouble), encoding="utf-8")
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked.txt\n', encoding="utf-8")
    scontrol.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    words = ["fit", *two_machines(config), "--config", str(tmp_path / "trouble.yaml")]

    stopped = runs.ended(tmp_path / "two", start_tasks(tmp_path / "two", 2, *words, PATH=path))

    assert stopped.statuses == [138, 138], stopped.output[-3000:]
    assert (tmp_path / "asked.txt").read_text(encoding="utf-8") == "requeue 4242\n"
    assert stopped.output.count("stopped by SIGUSR1: resume with --ckpt_path") == 1
    assert stopped.output.count("note: job 4242 is requeued") == 1

    again = runs.ended(tmp_path / "two", start_tasks(tmp_path / "two", 2, *words, SLURM_RESTART_COUNT=1))

    assert again.statuses == [0, 0], again.output[-3000:]
    assert again.output.count("note: job 4242 was requeued: its run resumes from") == 1
    assert [path.name for path in sorted((tmp_path / "two").glob("runs/*/*"))] == ["version_0", "version_1"]
    check_one_run(tmp_path / "two", one)
