"""Runs a function in several processes that form a gloo process group on the CPU."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import pathlib
import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from tests.ports import free_port

PRELOADED = [
    "pytest",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.debug",
    "torch.distributed.tensor.parallel",
    "lightning_adafactor",
]
"""What takes seconds to import: once, in the process that all others are forked from."""

TIMEOUT = datetime.timedelta(seconds=300)
"""How long a process waits for the others."""

LONGEST = 1200.0
"""Seconds after which the processes of a call are ended."""


def run(function: Callable[..., Any], size: int, folder: pathlib.Path, *args: Any) -> list[Any]:
    """Calls ``function(*args)`` in each of ``size`` processes; returns what they returned, by rank.

    Raises:
        AssertionError: A process raised, with its traceback; or it ended without a result or not in time.
    """
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    processes = [
        context.Process(target=_process, args=(function, rank, size, port, str(folder), args), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    ends = time.monotonic() + LONGEST
    for process in processes:
        process.join(max(0.0, ends - time.monotonic()))
    late = [process.is_alive() for process in processes]  # of all, before the end of one ends the others
    results = [_result(folder / f"rank-{rank}.pickle", process, late[rank]) for rank, process in enumerate(processes)]
    failed = [f"rank {rank}: {result}" for rank, (good, result) in enumerate(results) if not good]
    assert not failed, "\n".join(failed)
    return [result for _, result in results]


def _result(file: pathlib.Path, process: Any, late: bool) -> tuple[bool, Any]:
    """Whether a process did what it should, and what it returned, or what went wrong; ends one that still runs."""
    process.kill()
    process.join()
    if file.exists():
        good, result = pickle.loads(file.read_bytes())
        if not (good and late):
            return good, result
    return False, f"did not end within {LONGEST:g} s" if late else f"ended with {process.exitcode}, without a result"


def _process(function: Callable[..., Any], rank: int, size: int, port: int, folder: str, args: tuple[Any, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    store = distributed.TCPStore("127.0.0.1", port, size, is_master=rank == 0, timeout=TIMEOUT)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    try:
        result = True, function(*args)
    except BaseException:
        result = False, traceback.format_exc()
    (pathlib.Path(folder) / f"rank-{rank}.pickle").write_bytes(pickle.dumps(result))
    if result[0]:
        distributed.barrier()  # the store is rank 0's
    distributed.destroy_process_group()
