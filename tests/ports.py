"""Ports for processes that tests start."""

import random
import socket

OWN = range(20_000, 32_000)
"""Below those that the operating system gives to others, which may take one between its choice and its use."""


def free_port() -> int:
    """A port that nobody listens to."""
    while True:
        port = random.SystemRandom().choice(OWN)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
