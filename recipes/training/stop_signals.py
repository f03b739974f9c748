"""Ctrl-C, SIGTERM (docker stop, SLURM) and SIGUSR1 (SLURM) stop a run after the current batch, a second one at once."""

import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))

AGENT = "TORCHELASTIC_RUN_ID"
"""Set by torchrun, which passes on signals that a terminal or SLURM has sent to its processes too."""
PASSED_ON = 5.0
"""Seconds within which the same signal may come from torchrun."""


class StopSignals:
    """Records the first of these signals; the second one raises at once.

    A signal that is ignored stays ignored, as in background processes of a shell.

    Attributes:
        received: The number of the signal; None without one.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._since = 0.0

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
        """Raises what Lightning stops a run with.

        Raises:
            KeyboardInterrupt: After Ctrl-C.
            SIGTERMException: After another signal.
        """
        self.restore()
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SIGTERMException

    def _note(self, signum: int, frame: Any) -> None:
        if self.received is None:
            self.received, self._since = signum, time.monotonic()
            if getattr(rank_zero_only, "rank", 0) == 0:
                name = signal.Signals(signum).name
                print(f"\n{name}: stopping after this batch; a second one stops at once", file=sys.stderr)
            return
        if AGENT in os.environ and time.monotonic() - self._since < PASSED_ON:
            return
        self.received = signum
        self.restore()
        if signum == signal.SIGINT:
            raise KeyboardInterrupt
        raise SIGTERMException
