"""Runs ``fit`` in a process that is forked with everything imported, for tests that kill many of them."""

import os
import signal
import sys
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = get_context("forkserver" if sys.platform != "win32" else "spawn")
CONTEXT.set_forkserver_preload(
    [
        "datasets",
        "matplotlib.pyplot",
        "transformers.models.bert.modeling_bert",
        "transformers.models.llama.modeling_llama",
        "transformers.optimization",
        "transformers.trainer_pt_utils",
        "recipes.cli.finish",
        "recipes.cli.lightning",
        "recipes.language_modeling.module",
        "recipes.runs.plot",
        "recipes.text_classification.module",
    ]
)


def fit(folder: Path, options: list[str]) -> None:
    """Runs ``fit`` in a folder, with its output in ``output.txt`` there.

    Args:
        folder: The working folder.
        options: The command line.
    """
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in its background without it
    import torch

    from recipes.cli.main import main

    torch.set_num_threads(1)
    sys.exit(main(["fit", *options]))


def start(folder: Path, *options: str) -> BaseProcess:
    """Starts ``fit`` in a folder, which is made."""
    folder.mkdir(exist_ok=True)
    process = CONTEXT.Process(target=fit, args=(folder, list(options)))
    process.start()
    return process
