"""Times whole optimizer steps on the shapes of real models: ``python -m benchmarks.step``.

All optimizers update the same parameters, with the same gradients, in one process. Each one's numbers are first
checked against float64; then each takes one step per round, in random order, with cold caches. Gradients are
random; those of lookup tables are zero except for 5 % of their rows, different ones in each round.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment, report
from benchmarks.candidates import Candidate, all_candidates, chosen, installed
from benchmarks.measurement import Cell, bytes_needed, measure
from benchmarks.profiling import profile_steps
from benchmarks.reference import WrongNumbersError
from benchmarks.shapes import MODELS

RESULTS = Path(__file__).parent / "results"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line; ends the process with exit code 2 and a sentence where it is invalid."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="device to measure on (default: cuda if available)")
    parser.add_argument(
        "--model",
        nargs="+",
        choices=tuple(MODELS),
        help="models whose shapes are measured (default: distilbert; on cuda distilbert gpt2 llama1b)",
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=tuple(DTYPES),
        help="dtype of parameters and gradients (default: float32; on cuda both)",
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds that are counted (default: 20; on cuda 100)")
    parser.add_argument("--warmup", type=int, default=5, metavar="N", help="uncounted rounds before those (default: 5)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads on the CPU (default: torch's choice)")
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="NAME", help="optimizers to measure, such as 'ours*' adamw-fused"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="a new folder for step.json, step.txt and step.png (default: benchmarks/results/DEVICE-DATE)",
    )
    parser.add_argument("--no-output", action="store_true", help="print the tables and write nothing")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="print the profile of each optimizer's step instead of timing it",
    )
    options = parser.parse_args(arguments)
    options.device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_cuda = options.device.type == "cuda"
    options.model = options.model or (["distilbert", "gpt2", "llama1b"] if on_cuda else ["distilbert"])
    options.dtype = options.dtype or (["float32", "bfloat16"] if on_cuda else ["float32"])
    options.repeats = (100 if on_cuda else 20) if options.repeats is None else options.repeats
    if on_cuda and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device on this machine; use --device cpu")
    for name, least in (("repeats", 1), ("warmup", 2), ("threads", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name} {value}: it must be at least {least}")
    if options.output is not None and options.output.exists():
        parser.error(f"--output {options.output} exists already, and nothing is overwritten; name a new folder")
    try:
        options.candidates = chosen(all_candidates(options.device), options.only)
    except ValueError as mistake:
        parser.error(str(mistake))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark.

    Args:
        arguments: The command line, without the program's name; None takes the process's.

    Returns:
        The exit code: 0; 1 if an optimizer's numbers are wrong; 2 if the memory does not suffice.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler tells stderr when it starts and stops
    options = parse(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    candidates, absent = installed(options.candidates)
    if not candidates:
        print(f"--only {' '.join(options.only)}: {', '.join(absent.values())}.", file=sys.stderr)
        return 2
    if options.profile:
        for model, dtype in _cells(options):
            for candidate in candidates:
                print(profile_steps(candidate, model, options.device, DTYPES[dtype]))
        return 0
    command = shlex.join(["python", "-m", "benchmarks.step", *(sys.argv[1:] if arguments is None else arguments)])
    facts = {"command": command, **environment.describe(options.device)}
    print(_headline(facts))
    cells: list[Cell] = []
    for model, dtype in _cells(options):
        complaint = _too_large(candidates, model, DTYPES[dtype], options.device)
        if complaint:
            print(complaint, file=sys.stderr)
            return 2
        tell = _Progress(f"{MODELS[model].title}, {dtype}")
        try:
            cell = measure(
                candidates,
                model,
                options.device,
                DTYPES[dtype],
                repeats=options.repeats,
                warmup=options.warmup,
                tell=tell,
            )
        except WrongNumbersError as wrong:
            print(f"\n{wrong}", file=sys.stderr)
            return 1
        finally:
            tell.close()
        cell.left_out.update(absent)
        cells.append(cell)
        print(f"\n{report.table(cell)}", flush=True)
        if not options.no_output:
            options.output = options.output if len(cells) > 1 else _new_folder(options.output, facts["device"])
            _write(options.output, facts, cells)
    if not options.no_output:
        print(f"\nWritten to {options.output}{_draw(cells, facts['device'], options.output)}")
    return 0


def _cells(options: argparse.Namespace) -> list[tuple[str, str]]:
    return [(model, dtype) for model in options.model for dtype in options.dtype]


def _headline(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    text = f"{facts['device']}, {facts['threads']} CPU threads; {versions}"
    busy = facts["load_before"]
    if busy is not None and busy > 0.5:
        text += (
            f"\nThe machine is busy: its load average over the last minute is {busy:.1f}. "
            "Expect longer times and different ratios than on an idle one."
        )
    return text


def _too_large(candidates: Sequence[Candidate], model: str, dtype: torch.dtype, device: torch.device) -> str | None:
    needed, free = bytes_needed(candidates, model, dtype), environment.free_bytes(device)
    if free is None or needed <= free:
        return None
    return (
        f"--model {model}: {MODELS[model].title} in {str(dtype).removeprefix('torch.')} takes about "
        f"{needed / 2**30:.1f} GiB, because all optimizers hold their state at once, and {free / 2**30:.1f} GiB "
        "are free; name fewer of them with --only, or a smaller --model."
    )


class _Progress:
    """One line on stderr with the current activity, rewritten in place; on a terminal only."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown = sys.stderr.isatty()

    def __call__(self, doing: str) -> None:
        if self._shown:
            print(f"\r\033[K{self._title}: {doing}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _new_folder(wanted: Path | None, device: str) -> Path:
    """Creates the folder for the results: the given one, or a new one named after device and date."""
    if wanted is not None:
        wanted.mkdir(parents=True)
        return wanted
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    name = f"{slug}-{datetime.date.today().isoformat()}"
    number = 1
    while True:
        folder = RESULTS / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _write(folder: Path, facts: dict[str, Any], cells: Sequence[Cell]) -> None:
    """Writes the measurements so far, so that an interruption loses none."""
    facts = {**facts, "load_after": environment.load()}
    text = json.dumps(report.as_json(facts, cells), indent=1)
    on_one_line = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), text)
    (folder / "step.json").write_text(f"{on_one_line}\n")
    tables = "\n\n".join([_headline(facts), *map(report.table, cells)])
    (folder / "step.txt").write_text(f"{facts['command']}\n{tables}\n", encoding="utf-8")


def _draw(cells: Sequence[Cell], device: str, folder: Path) -> str:
    """Draws the chart; returns a note where that is not possible."""
    if importlib.util.find_spec("matplotlib") is None:
        return "; without a chart, because matplotlib is not installed"
    from benchmarks import chart

    chart.draw(cells, device, folder / "step.png")
    return ""


if __name__ == "__main__":
    sys.exit(main())
