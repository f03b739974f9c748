"""Runs a command of the recipes in several processes, as torchrun starts them, forked with everything imported."""

import os
import socket
from pathlib import Path

from tests.recipes.killed_fit import CONTEXT

SECONDS = 300


def run(folder: Path, size: int, *arguments: str) -> list[int | None]:
    """Runs ``python -m recipes ARGUMENTS`` in each of ``size`` processes; their output is in ``output-RANK.txt``.

    Args:
        folder: The working folder, which is made.
        size: The number of processes; one runs as without torchrun.
        arguments: The command line, with the command.

    Returns:
        The exit status of each process; negative for a signal, None if it had to be ended.
    """
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [CONTEXT.Process(target=_process, args=(folder, rank, size, port, arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    statuses = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return statuses


def output(folder: Path, rank: int = 0) -> str:
    """What a process has printed."""
    return (folder / f"output-{rank}.txt").read_text(encoding="utf-8", errors="replace")


def _process(folder: Path, rank: int, size: int, port: int, arguments: tuple[str, ...]) -> None:
    os.chdir(folder)
    file = os.open(f"output-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if size > 1:
        names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"}
    import sys

    import torch
    from lightning.pytorch.utilities.rank_zero import rank_zero_only
    from lightning_utilities.core.rank_zero import rank_zero_only as utilities_rank_zero_only

    from recipes.cli.main import main

    rank_zero_only.rank = utilities_rank_zero_only.rank = rank  # read from the environment when they were imported
    torch.set_num_threads(1)
    sys.exit(main(list(arguments)))
