"""The processes of a run watch each other: when one ends before its time, the others end within a second.

Each process has a connection to the first one, which the operating system closes when either of them ends, however it
ends. A collective of gloo or NCCL, by contrast, may wait for a process that is gone until its timeout. Of several
processes with an error at the same time, one reports it.

Only modules of the standard library are imported, because the command line asks here before torch is loaded.
"""

import atexit
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

CONNECTING = 15.0
"""Seconds within which all processes connect."""
NEWS = 0.3
"""Seconds after which the end of another process is known; an error may be its consequence."""
REPORTING = 60.0
"""Seconds that another process may take to report its error."""
AGREED = 5.0
"""Seconds that a process has to end by itself after a signal, which stops all of them after the same step."""
FAILURE = 1
SIGNALLED = 128
"""A higher status is that of a process which a signal has stopped."""
SHOW_CURSOR = "\x1b[?25h"

Resume = Callable[[], str]
Address = tuple[str, int, str]
"""Host, port, and a word that tells the processes of this run from strangers."""


class Peers:
    """The other processes of a run.

    A message is a line: ``error`` (may I report it?), ``speak`` or ``silent`` (the answer), ``end STATUS`` (the process
    ends, with 0 when its work is done).

    Args:
        rank: The number of this process.
        size: The number of processes.
        connections: Connections by rank: to all others on rank 0, to rank 0 on the others.
        resume: How to resume the run, such as ``resume with --ckpt_path ...``, or an empty string.
        children: The processes that this one has started, of ranks 1, 2, ...
    """

    def __init__(
        self,
        rank: int,
        size: int,
        connections: dict[int, socket.socket],
        resume: Resume = str,
        children: Sequence["subprocess.Popen[bytes]"] = (),
    ) -> None:
        self.rank, self.size = rank, size
        self._connections = connections
        self._resume = resume
        self._children = list(children)
        self._lock = threading.RLock()
        self._reporter: int | None = None  # on rank 0, who reports an error
        self._answer = threading.Event()
        self._may_report: bool | None = None
        self._leaving = self._has_left = False
        self._done: set[int] = set()
        atexit.register(self.leave, 0)  # of a program of its own; the command line tells its status before
        os.register_at_fork(after_in_child=self._close)  # workers of a DataLoader would keep the connections open
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def may_report(self, wait: bool = True) -> bool:
        """Whether this process reports its error; another one may be the first, or the cause.

        Args:
            wait: Whether the error may be the consequence of another process's end.
        """
        if self._may_report is None:
            if self.rank or wait:
                time.sleep(NEWS * (2 if self.rank else 1))  # the first process has precedence
            self._may_report = self._ask()
        return self._may_report

    def _ask(self) -> bool:
        if self.rank == 0:
            return self._claim(0)
        if not self._send(0, "error"):
            return True
        answered = self._answer.wait(CONNECTING)
        return self._reporter == self.rank if answered else True

    def _claim(self, rank: int) -> bool:
        with self._lock:
            if self._reporter is None:
                self._reporter = rank
            return self._reporter == rank

    def wait_for_the_end(self) -> NoReturn:
        """Waits for the process that reports; this one ends with its status."""
        time.sleep(REPORTING)
        self._exit(FAILURE)

    def ignore(self) -> None:
        """From here on this process ends for a reason of its own, or one that all of them know, such as a signal."""
        self._leaving = True

    def leave(self, status: int) -> None:
        """Tells the others that this process ends.

        Args:
            status: Its exit status; with another one than 0, the others end too.
        """
        self._leaving = True
        if self._has_left:
            return
        self._has_left = True
        for rank in list(self._connections):
            self._send(rank, f"end {status}")
        for child in self._children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(CONNECTING)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection, selectors.EVENT_READ, rank)
            pending = dict.fromkeys(self._connections, "")
            while selector.get_map():
                for key, _ in selector.select():
                    try:
                        received = key.fileobj.recv(4096)  # type: ignore[union-attr]
                    except OSError:
                        received = b""
                    if not received:
                        selector.unregister(key.fileobj)
                        self._closed(key.data)
                        continue
                    *lines, pending[key.data] = (pending[key.data] + received.decode()).split("\n")
                    for line in lines:
                        self._read(key.data, *line.split())

    def _read(self, rank: int, word: str, status: str = "0") -> None:
        if word == "error":
            self._send(rank, "speak" if self._claim(rank) else "silent")
        elif word in ("speak", "silent"):
            self._reporter = self.rank if word == "speak" else 0
            self._answer.set()
        elif word == "end":
            self._done.add(rank)
            if int(status) > SIGNALLED:
                time.sleep(AGREED)
            if int(status):
                self._end_all(int(status), besides=rank)

    def _closed(self, rank: int) -> None:
        """The connection to another process is closed."""
        if rank in self._done or self._leaving or self._reporter == self.rank:
            return
        if self.rank == 0 and self._reporter in (None, rank):
            reported = self._reporter == rank  # it may have ended while it reported
            self._reporter = -1
            if not reported:
                self._tell(rank)
        elif self.rank == 1:
            self._tell(rank)
        self._end_all(FAILURE, besides=rank)

    def _end_all(self, status: int, besides: int) -> None:
        if self._leaving:
            return
        if self.rank == 0:
            for other in self._connections.keys() - {besides} - self._done:
                self._send(other, f"end {status}")
        self._exit(status)

    def _tell(self, rank: int) -> None:
        resume = ""
        with suppress(Exception):  # whatever the other threads were doing
            resume = self._resume()
        print(
            f"{SHOW_CURSOR if sys.stderr.isatty() else ''}\nerror: rank {rank} of {self.size} {self._how(rank)}, and "
            f"the others have stopped{f'; {resume}' if resume else ''}",
            file=sys.stderr,
            flush=True,
        )

    def _how(self, rank: int) -> str:
        """How a process has ended, as far as that is known."""
        if self.rank == 0 and 0 < rank <= len(self._children):
            with suppress(subprocess.TimeoutExpired):
                status = self._children[rank - 1].wait(1)
                return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"has ended with {status}"
        return "has ended without a message, as a process that is killed or out of memory does"

    def _send(self, rank: int, message: str) -> bool:
        try:
            self._connections[rank].sendall(f"{message}\n".encode())
        except OSError:
            return False
        return True

    def _exit(self, status: int) -> NoReturn:
        """Ends this process at once: its main thread may be within a collective that never ends.

        Checkpoints are written whole or not at all, as for a process that is killed.
        """
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.write(SHOW_CURSOR if stream.isatty() else "")
                stream.flush()
        os._exit(status)

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.close()


current: Peers | None = None
"""Those of this process; None if it is alone, or not connected yet."""


def may_report(wait: bool = True) -> bool:
    """As :meth:`Peers.may_report`; true for a process that is alone."""
    return current is None or current.may_report(wait)


def wait_for_the_end() -> None:
    """As :meth:`Peers.wait_for_the_end`."""
    assert current is not None
    current.wait_for_the_end()


def leave(status: int) -> None:
    """As :meth:`Peers.leave`; nothing for a process that is alone."""
    if current is not None:
        current.leave(status)


def listen(on_this_machine: bool, host: str) -> tuple[socket.socket, Address]:
    """Opens the port of rank 0 that the others connect to.

    Args:
        on_this_machine: Whether all processes are on this machine.
        host: The name or address of this machine for the others.
    """
    listener = socket.create_server(("127.0.0.1" if on_this_machine else "", 0), backlog=512)
    return listener, ("127.0.0.1" if on_this_machine else host, listener.getsockname()[1], secrets.token_hex(16))


def accept(listener: socket.socket, size: int, word: str) -> dict[int, socket.socket]:
    """The connections of the other processes, those that come in time.

    Args:
        listener: From :func:`listen`.
        size: The number of processes.
        word: What each of them sends first.
    """
    connections: dict[int, socket.socket] = {}
    deadline = time.monotonic() + CONNECTING
    with listener:
        while len(connections) < size - 1 and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            with suppress(OSError, ValueError):
                connection, _ = listener.accept()
                connection.settimeout(left)
                given, rank = connection.makefile("r").readline().split()
                if secrets.compare_digest(given, word):
                    connections[int(rank)] = _lasting(connection)
    return connections


def connect(address: Address, rank: int) -> dict[int, socket.socket]:
    """The connection to rank 0; none if there is no way to it.

    Args:
        address: From :func:`listen`.
        rank: The number of this process.
    """
    host, port, word = address
    try:
        connection = socket.create_connection((host, port), timeout=CONNECTING)
        connection.sendall(f"{word} {rank}\n".encode())
    except OSError:
        return {}
    return {0: _lasting(connection)}


def _lasting(connection: socket.socket) -> socket.socket:
    """A connection that is closed within half a minute when the other machine has gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return connection
