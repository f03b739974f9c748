"""The entry point of the command line: exit codes, and messages for mistakes that users can fix.

Only light modules are imported here, so that a misspelt file name is reported before torch is loaded.
"""

import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from recipes.cli import quiet
from recipes.cli.command_line import HELP, CommandLine
from recipes.cli.commands import COMMANDS, OWN_COMMANDS, USAGE, help_of_all
from recipes.messages import RecipeError, TrainingDiverged

LINES_AT_MOST = 5
OUT_OF_MEMORY = (
    "the GPU's memory is full: lower data.batch_size (and raise trainer.accumulate_grad_batches to make up "
    "for it) or the length of the texts (data.max_length, data.block_size), or set trainer.precision to bf16-mixed; "
    "python -m recipes.estimate predicts what fits"
)

SUCCESS, FAILURE, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command of the recipes.

    Args:
        args: The command line without the program, such as ``["fit", "--config", "cls.yaml"]``; by default
            that of this process.

    Returns:
        The exit status: 0; 1 if the training diverged or the GPU ran out of memory; 2 for a mistake that the user can
        fix; 130 after Ctrl-C. Other exceptions are not caught.
    """
    args = list(sys.argv[1:] if args is None else args)
    try:
        return _run(args)
    except RecipeError as error:
        return _fail(str(error), MISTAKE)
    except TrainingDiverged as error:
        # All ranks stop for the same reason; rank 0 reports it.
        return FAILURE if _rank() else _fail(str(error), FAILURE)
    except KeyboardInterrupt as interrupt:
        print(f"\ninterrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else SUCCESS if ended.code is None else FAILURE


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
        return int(importlib.import_module(OWN_COMMANDS[args[0]].module).main(args[1:]))

    command_line = CommandLine.parse(args[1:])  # a missing file or invalid YAML is reported before torch is loaded

    with _no_garbage_collection():
        import torch
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        from recipes.cli.lightning import RecipeCLI

    try:
        RecipeCLI(args[0], command_line)
    except MisconfigurationException as error:
        raise RecipeError(" ".join(str(error).split())) from error
    except torch.OutOfMemoryError as error:
        return _fail(f"{OUT_OF_MEMORY} ({str(error).partition(' GPU ')[0].strip()})", FAILURE)
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        first = str(error).splitlines()[1].strip() if len(str(error).splitlines()) > 1 else str(error)
        raise RecipeError(
            f"--ckpt_path: the checkpoint's weights are not those of this model ({first}): give the configuration that "
            "it was trained with, config.yaml in the folder of its run"
        ) from error
    return SUCCESS


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
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def _fail(message: str, status: int) -> int:
    lines = f"{f'[rank: {_rank()}] ' if _rank() else ''}error: {message}".splitlines()
    print("\n".join(lines[:LINES_AT_MOST]), file=sys.stderr)
    return status
