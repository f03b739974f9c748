"""Runs commands in processes that are forked with everything imported, for tests that need many of them."""

import os
import signal
import socket
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

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

    rank_zero_only.rank = int(environment.get("RANK", "0"))  # Lightning has read it when it was imported
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
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}
    processes = []
    for rank in range(size):
        variables = {name: str(value) for name, value in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        processes.append(CONTEXT.Process(target=fit, args=(folder, list(words), variables)))
        processes[-1].start()
    return processes
