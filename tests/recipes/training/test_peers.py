"""Processes that watch each other: one ends, and all end, with one message and the status of the one with the error."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROCESS = """
import os, sys, time
from recipes.training import peers

rank, size, port, action = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if rank == 0:
    listener, address = peers.listen(True, "")
    print(address[1], address[2], flush=True)
    connections = peers.accept(listener, size, address[2])
else:
    connections = peers.connect(("127.0.0.1", int(port), sys.argv[5]), rank)
assert len(connections) == (size - 1 if rank == 0 else 1)
peers.current = peers.Peers(rank, size, connections, lambda: "resume with --ckpt_path last.ckpt")
time.sleep(0.3)  # all are connected
status = 0
if action == "error":
    if not peers.may_report():
        peers.wait_for_the_end()
    print(f"error of rank {rank}", file=sys.stderr, flush=True)
    status = 7
elif action == "worker":  # of a DataLoader, which outlives the process
    if os.fork() == 0:
        os.close(1), os.close(2)
        time.sleep(20)
        os._exit(0)
elif action in ("stopped", "slow"):
    time.sleep(1 if action == "slow" else 0)
    print(f"rank {rank} was stopped", file=sys.stderr, flush=True)
    status = 143
if action in ("wait", "worker", "die"):
    print("waiting", flush=True)
    time.sleep(15)
    status = 9
peers.leave(status)
sys.exit(status)
"""


def together(actions: Sequence[str], kill: int | None = None) -> tuple[list[int], list[str]]:
    """Runs processes with an action each; returns their statuses, 9 for those that waited to no end, and messages."""
    processes: list[subprocess.Popen[str]] = []
    address: list[str] = ["0"]
    for rank, action in enumerate(actions):
        words = [sys.executable, "-c", PROCESS, str(rank), str(len(actions)), address[0], action, *address[1:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen(
                words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
            )
        )
        if rank == 0:
            assert processes[0].stdout is not None
            address = processes[0].stdout.readline().split()
    if kill is not None:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
        os.kill(processes[kill].pid, signal.SIGKILL)
    for process in processes:
        process.wait(20)
    messages = []
    for process in processes:
        assert process.stderr is not None
        messages += [line for line in process.stderr.read().splitlines() if line.strip()]
    return [process.returncode for process in processes], messages


@pytest.mark.parametrize("kill", [0, 1, 2])
def test_all_end_with_one_sentence_when_one_is_killed(kill: int) -> None:
    statuses, messages = together(["wait"] * 3, kill)

    assert statuses == [-signal.SIGKILL if rank == kill else 1 for rank in range(3)]
    assert len(messages) == 1
    assert messages[0].startswith(f"error: rank {kill} of 3 has ended without a message")
    assert messages[0].endswith("and the others have stopped; resume with --ckpt_path last.ckpt")


def test_a_worker_that_outlives_its_process_does_not_hide_its_end() -> None:
    statuses, messages = together(["wait", "worker"], kill=1)

    assert statuses == [1, -signal.SIGKILL]
    assert len(messages) == 1


@pytest.mark.parametrize("actions", [["error", "wait", "wait"], ["wait", "wait", "error"], ["error"] * 3])
def test_one_process_reports_an_error_and_all_end_with_its_status(actions: list[str]) -> None:
    statuses, messages = together(actions)

    assert statuses == [7, 7, 7]
    assert len(messages) == 1
    # of several errors at the same time it may be any
    assert messages[0] in [f"error of rank {rank}" for rank, action in enumerate(actions) if action == "error"]


def test_processes_that_are_done_end_without_a_message() -> None:
    assert together(["done", "done"]) == ([0, 0], [])


def test_a_process_that_a_signal_stops_too_has_time_to_say_so() -> None:
    statuses, messages = together(["slow", "stopped"])

    assert statuses == [143, 143]
    assert messages == ["rank 0 was stopped", "rank 1 was stopped"]
