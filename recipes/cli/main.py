"""The entry point of the command line: exit codes, and messages for mistakes that users can fix.

Only light modules are imported here, so that a misspelt file name is reported before torch is loaded.
"""

import gc
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from recipes.cli import quiet
from recipes.cli.command_line import HELP, CommandLine
from recipes.cli.commands import COMMANDS, OWN_COMMANDS, USAGE, help_of_all
from recipes.messages import RecipeError, RunFailed, TrainingDiverged, TrainingHopeless
from recipes.training import peers

LINES_AT_MOST = 5
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
DEBUG = "--debug"

SUCCESS, FAILURE, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command of the recipes.

    Args:
        args: The command line without the program, such as ``["fit", "--config", "cls.yaml"]``; by default
            that of this process.

    Returns:
        The exit status: 0; 1 if the training diverged, the GPU ran out of memory or a library failed; 2 for a mistake
        that the user can fix; 130 after Ctrl-C; 128 plus its number after another signal: 143 after SIGTERM, 138 after
        SIGUSR1. With ``--debug``, the traceback of an error is printed.
    """
    args = list(sys.argv[1:] if args is None else args)
    status = _status([word for word in args if word != DEBUG], DEBUG in args)
    peers.leave(status)
    return status


def _status(args: list[str], debug: bool) -> int:
    try:
        return _run(args)
    except RecipeError as error:
        return _fail(error, MISTAKE, debug)
    except (TrainingDiverged, TrainingHopeless) as error:
        return _fail(error, FAILURE, debug)
    except KeyboardInterrupt as interrupt:
        if not _rank():
            print(f"\ninterrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else SUCCESS if ended.code is None else FAILURE
    except Exception as error:
        return _unforeseen(error, args, debug)


def _run(args: list[str]) -> int:
    if not args:
        raise RecipeError(f"expected a command\n{USAGE}\nfor example: python -m recipes fit --config cls.yaml")
    known = [*COMMANDS, *OWN_COMMANDS]
    if args[0] not in known and not args[0].startswith("-"):
        near = get_close_matches(args[0], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        raise RecipeError(f"unknown command '{args[0]}'; {hint}\n{USAGE}")

    if args[0] in HELP:
        print(help_of_all(), end="")
        return SUCCESS
    if args[0].startswith("-"):
        raise RecipeError(f"'{args[0]}' is given before the command\n{USAGE}")

    quiet.no_bars_in_files()
    quiet.silence()
    if args[0] in OWN_COMMANDS:
        _refuse_launcher(args[0])
        return int(importlib.import_module(OWN_COMMANDS[args[0]].module).main(args[1:]))

    command_line = CommandLine.parse(args[1:])  # a missing file or invalid YAML is reported before torch is loaded

    with _no_garbage_collection():
        from recipes.cli.lightning import RecipeCLI

    RecipeCLI(args[0], command_line)
    return SUCCESS


def _refuse_launcher(command: str) -> None:
    """Raises a RecipeError if torchrun or srun has started a command that runs in one process in several."""
    variables = {"torchrun": ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"), "srun": ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS")}
    for launcher, (mark, size) in variables.items():
        if mark in os.environ and os.environ.get(size, "1") not in ("", "1"):
            raise RecipeError(
                f"{command} was started in {os.environ[size]} processes, and runs in one: start it with python instead "
                f"of {launcher}; the trainings of compare and reproduce start those of trainer.devices themselves"
            )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pauses garbage collection while modules are imported: it finds nothing and takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _rank() -> int:
    """The number of this process, as Lightning's launcher, torchrun or srun tells it."""
    return int(next((os.environ[name] for name in RANK_VARIABLES if os.environ.get(name)), 0))


def _unforeseen(error: Exception, args: list[str], debug: bool) -> int:
    """Reports an error of a command; a fault of ours with its traceback."""
    from recipes.cli.unforeseen import Circumstances, explain_error

    told = (
        error if isinstance(error, RunFailed) else explain_error(error, Circumstances(" ".join(["recipes", *args[:1]])))
    )
    told.__cause__ = told.__cause__ or error
    if isinstance(told, RunFailed):
        return _fail(told, told.status, debug or told.is_bug)
    return _fail(told, MISTAKE, debug)


def _fail(error: Exception, status: int, with_traceback: bool) -> int:
    if not peers.may_report(wait=False):
        peers.wait_for_the_end()
    if with_traceback:
        traceback.print_exception(error.__cause__ or error)
    lines = f"{f'[rank: {_rank()}] ' if _rank() else ''}error: {error}".splitlines()
    print("\n".join(lines[:LINES_AT_MOST]), file=sys.stderr)
    return status
