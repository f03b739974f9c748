"""Ctrl-C, SIGTERM (docker stop, SLURM) and SIGUSR1 (SLURM) stop a run after the current batch, a second one at once."""

import signal
import sys
import threading
from typing import Any, NoReturn

from lightning.pytorch.utilities.exceptions import SIGTERMException

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class StopSignals:
    """Records the first of these signals; the second one raises at once.

    A signal that is ignored stays ignored, as in background processes of a shell.

    Attributes:
        received: The number of the signal; None without one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Installs the handlers, in the main thread only, as Python requires."""
        self.received = None
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for signum in SIGNALS:
            handler = signal.getsignal(signum)
            if handler is not signal.SIG_IGN and handler is not None:
                self._before[signum] = handler
                signal.signal(signum, self._note)

    def restore(self) -> None:
        """Restores the previous handlers."""
        while self._before:
            signum, handler = self._before.popitem()
            signal.signal(signum, handler)

    def leave(self) -> NoReturn:
        """Raises what Lightning stops a run with; passes SIGUSR1 on to Lightning, which may requeue the job.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SIGTERMException: After another signal.
        """
        received = self.received
        handler = self._before.get(received) if received is not None else None
        self.restore()
        if received == signal.SIGINT:
            raise KeyboardInterrupt
        if received != signal.SIGTERM and callable(handler):
            handler(received, None)
        raise SIGTERMException

    def _note(self, signum: int, frame: Any) -> None:
        if self.received is None:
            self.received = signum
            name = signal.Signals(signum).name
            print(f"\n{name}: stopping after this batch; a second one stops at once", file=sys.stderr)
            return
        self.received = signum
        self.restore()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SIGTERMException
