"""Runs commands in processes that are forked with everything imported, for tests that need many of them."""

import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.ports import free_port

CONTEXT = get_context("forkserver" if sys.platform != "win32" else "spawn")
CONTEXT.set_forkserver_preload(
    [
        "datasets",
        "matplotlib.pyplot",
        "transformers.models.bert.modeling_bert",
        "transformers.models.llama.modeling_llama",
        "transformers.optimization",
        "transformers.trainer_pt_utils",
        "recipes.cli.finish",
        "recipes.cli.lightning",
        "recipes.language_modeling.module",
        "recipes.runs.plot",
        "recipes.text_classification.module",
    ]
)


def fit(folder: Path, words: list[str], environment: dict[str, str]) -> None:
    """Runs a command in a folder, with its output in ``output.txt`` there.

    Args:
        folder: The working folder.
        words: The command line.
        environment: Environment variables to set.
    """
    os.chdir(folder)
    os.environ.update(environment)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background without it
    import torch
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from recipes.cli.main import main

    rank = environment.get("RANK") or environment.get("SLURM_PROCID") or "0"
    rank_zero_only.rank = int(rank)  # Lightning has read it when it was imported
    torch.set_num_threads(1)
    sys.exit(main(words))


def start(folder: Path, *options: str) -> BaseProcess:
    """Starts ``fit`` in a folder, which is made."""
    folder.mkdir(exist_ok=True)
    process = CONTEXT.Process(target=fit, args=(folder, ["fit", *options], {}))
    process.start()
    return process


def start_ranks(folder: Path, size: int, *words: str) -> list[BaseProcess]:
    """Starts a command on several processes, with the environment variables of torchrun but without its agent.

    Args:
        folder: The working folder, which is made.
        size: Number of processes.
        words: The command line; ``--trainer.devices`` and a strategy are for the caller to give.
    """
    common: dict[str, object] = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "TORCHELASTIC_RUN_ID": "test"}
    return _start_all(folder, words, [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in range(size)])


def start_tasks(folder: Path, size: int, *words: str, **variables: object) -> list[BaseProcess]:
    """Starts a command on several processes as srun does: each is the one task of a machine.

    Args:
        folder: The working folder, which is made.
        size: Number of tasks.
        words: The command line.
        variables: Further environment variables.
    """
    common: dict[str, object] = {"SLURM_JOB_ID": 4242, "SLURM_JOB_NAME": "wrap", "SLURM_NTASKS": size}
    common |= {"SLURM_NTASKS_PER_NODE": 1, "SLURM_NNODES": size, "SLURM_NODELIST": "localhost,other"}
    common |= {"SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": size, "MASTER_PORT": free_port(), **variables}
    places = [{"SLURM_PROCID": rank, "SLURM_NODEID": rank, "SLURM_LOCALID": 0} for rank in range(size)]
    return _start_all(folder, words, [{**common, **place} for place in places])


def _start_all(folder: Path, words: Sequence[str], environments: list[dict[str, object]]) -> list[BaseProcess]:
    folder.mkdir(exist_ok=True)
    processes: list[BaseProcess] = []
    for environment in environments:
        variables = {"OMP_NUM_THREADS": "1", **{name: str(value) for name, value in environment.items()}}
        processes.append(CONTEXT.Process(target=fit, args=(folder, list(words), variables)))
        processes[-1].start()
    return processes
