"""Processes of runs: started apart from the terminal, and ended so that they save a checkpoint first."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from recipes.runs import slurm

SECONDS_TO_STOP = 60

Process = subprocess.Popen[bytes]


def start(command: Sequence[str], output: IO[bytes]) -> Process:
    """Starts a command whose output goes to a file."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    # In a session of its own, so that Ctrl-C reaches it once, from here, and it stops as a single run does.
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **slurm.for_children(), **settings},
        start_new_session=True,
    )


def stop(processes: Sequence[Process]) -> None:
    """Ends processes and their children: by signals that let them save checkpoints, then by SIGKILL."""
    # Started with `nohup … &`, this process ignores SIGINT and so do its runs: they would only be waited for.
    ignores_interrupts = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    try:
        for ask in (signal.SIGTERM,) if ignores_interrupts else (signal.SIGINT, signal.SIGTERM):
            _ask_to_end(processes, ask)
    finally:
        for process in processes:
            # Its session includes the processes of the other devices, if they still run.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _ask_to_end(processes: Sequence[Process], ask: signal.Signals) -> None:
    """Sends a signal to all processes at once and waits for them."""
    deadline = time.monotonic() + SECONDS_TO_STOP
    running = [process for process in processes if process.poll() is None]
    for process in running:
        with suppress(OSError, ValueError):
            process.send_signal(ask)
    for process in running:
        # Also a second Ctrl-C: else the runs would go on, with no terminal to end them.
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
            process.wait(max(deadline - time.monotonic(), 0))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turns signals that end this process into :class:`SystemExit`, so that it ends its runs first."""

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, end) for number in names}
    except ValueError:  # not in the main thread, which alone receives signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
