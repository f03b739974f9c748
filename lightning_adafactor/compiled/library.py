"""Loads the compiled library, checks it, and calls it on torch's own threads."""

from __future__ import annotations

import ctypes
import enum
import functools
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lightning_adafactor.compiled import build

_REBUILD = "python -m lightning_adafactor.compiled.build"


class Phase(enum.IntEnum):
    """What a call does: the ``phase`` of ``source/schedule.h``. Processes add up their shards' sums between passes."""

    ALL_PASSES = 0
    SUM_SQUARES = 1
    SUM_UPDATES = 2
    APPLY_UPDATES = 3


class Library:
    """The library's functions.

    Args:
        path: The library.

    Attributes:
        digest: Digest of its sources.
        instruction_sets: How many of ``build.INSTRUCTION_SETS`` this machine supports, counted from the baseline.

    Raises:
        OSError: It cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.adafactor_digest.restype = ctypes.c_char_p
        for name in ("adafactor_instruction_sets", "adafactor_scratch_bytes", "adafactor_entry_bytes"):
            getattr(self._library, name).restype = ctypes.c_int64
        step = self._library.adafactor_step
        pointer, integer = ctypes.c_void_p, ctypes.c_int64
        step.argtypes = [pointer, integer, integer, ctypes.c_double, pointer, integer, integer, pointer, pointer]
        step.restype = None
        self._step: Callable[..., None] = step
        self._parallel = _torchs_threads()
        self._scratch = threading.local()
        self.digest: str = self._library.adafactor_digest().decode()
        self.instruction_sets = int(self._library.adafactor_instruction_sets())
        self.scratch_bytes = int(self._library.adafactor_scratch_bytes())
        self.entry_bytes = int(self._library.adafactor_entry_bytes())

    def step(
        self,
        table: bytearray,
        count: int,
        unscale: float,
        phase: Phase = Phase.ALL_PASSES,
        instruction_set: int | None = None,
    ) -> None:
        """Takes a step for all entries of a table, or makes one pass over shards.

        Args:
            table: The entries, as ``table.pack`` makes them.
            count: How many there are.
            unscale: Factor of the gradients.
            phase: Which passes.
            instruction_set: Number of the instruction set; None for the best one.
        """
        best = self.instruction_sets - 1
        scratch = getattr(self._scratch, "memory", None)
        if (
            scratch is None
        ):  # kept by each thread that takes steps: allocating it takes longer than a small model's step
            scratch = self._scratch.memory = ctypes.create_string_buffer(self.scratch_bytes)
        self._step(
            ctypes.addressof(ctypes.c_char.from_buffer(table)),
            count,
            int(phase),
            unscale,
            ctypes.addressof(scratch),
            best if instruction_set is None else instruction_set,
            torch.get_num_threads(),
            *self._parallel,
        )


def _torchs_threads() -> tuple[int | None, int | None]:
    """Addresses of functions that run another one on torch's threads: torch's own, and that of its OpenMP runtime."""
    loaded: Any = ctypes.CDLL(torch._C.__file__)  # symbols of the libraries that it is linked with are found too
    addresses = []
    for name in ("torch_parallel_for", "GOMP_parallel"):
        function = getattr(loaded, name, None)
        addresses.append(None if function is None else ctypes.cast(function, ctypes.c_void_p).value)
    return addresses[0], addresses[1]


@functools.cache
def load() -> Library | str:
    """Loads the library beside the sources; returns the reason if it cannot be used.

    Warns if there is a library that cannot be used.
    """
    if not build.LIBRARY.exists():
        return f"the compiled step has not been built (build it with {_REBUILD})"
    try:
        library = Library(build.LIBRARY)
        if library.digest == build.digest():
            return library
        reason = f"the compiled step is older than its sources (build it again with {_REBUILD})"
    except (OSError, AttributeError) as error:
        reason = f"the compiled step cannot be loaded: {error} (build it again with {_REBUILD})"
    warnings.warn(f"Steps on CPUs are taken in plain torch operations: {reason}", stacklevel=2)
    return reason
