"""The memory of training a language model of 135 million parameters, estimated and measured, mode by mode.

Each mode adds one saving to the one before it, and runs in a process of its own. Weights and tokens are random, and
nothing is downloaded. The peak of a step after the first is measured:

allocated  tensors, as torch's profiler (CPU) or allocator (CUDA) counts them; this is what recipes.estimate predicts
resident   the memory of the process beyond what it was before there was a model (CPU, Linux only)

The table, its figures (JSON) and a picture are written to one folder, anew after each mode.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import describe, load
from benchmarks.memory_report import draw, markdown
from benchmarks.training_memory import MODES, SMOLLM2_135M, estimated, measure

_SETTING = ("layers", "rows", "tokens")
"""The options that make the measurements of two calls comparable."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the modes and writes the report.

    Args:
        arguments: The command line, without the program's name; None for ``sys.argv``.

    Returns:
        The exit code: 0, or 1 if a mode failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: there is no CUDA device; use --device cpu")
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.mode is not None:
        measured = one_mode(options.mode, options.layers, options.rows, options.tokens, device, options.steps)
        options.output.write_text(json.dumps(measured), encoding="utf-8")
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python -m benchmarks.memory", *(sys.argv[1:] if arguments is None else arguments)])
    report = {"environment": describe(device), **_setting(options), "modes": []}
    if options.resume:
        report["modes"] = measured_before(options.output / "memory.json", report)
    done = [mode["name"] for mode in report["modes"]]
    for number, mode in enumerate(MODES):
        if mode.name in done or (options.float32_only and mode.dtype != "float32"):
            continue
        print(f"{mode.name} …", file=sys.stderr, flush=True)
        result = _in_own_process(number, options)
        if result is None:
            return 1
        report["modes"] = in_order([*report["modes"], {**result, "command": command}])
        _write(report, options.output)
    print(markdown(report))
    return 0


def measured_before(file: Path, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The modes that an earlier report holds, if it is of the same setting on the same device.

    Args:
        file: The earlier ``memory.json``; it may be missing.
        report: The report that is about to be made.
    """
    if not file.exists():
        return []
    before = json.loads(file.read_text(encoding="utf-8"))
    same = all(before[name] == report[name] for name in _SETTING)
    same = same and before["environment"]["device"] == report["environment"]["device"]
    return before["modes"] if same else []


def in_order(modes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorts measured modes as ``MODES`` are."""
    names = [mode.name for mode in MODES]
    return sorted(modes, key=lambda mode: names.index(mode["name"]))


def _write(report: Mapping[str, Any], folder: Path) -> None:
    (folder / "memory.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "memory.md").write_text(markdown(report), encoding="utf-8")
    draw(report, folder / "memory.png")


def one_mode(number: int, layers: int, rows: int, tokens: int, device: torch.device, steps: int) -> dict[str, Any]:
    """Estimates and measures a mode.

    Args:
        number: Its place in ``MODES``.
        layers: Layers of the model.
        rows: Blocks in a batch.
        tokens: Tokens in a block.
        device: The device.
        steps: Steps that are measured.

    Returns:
        The measurements, the mode's name, date and threads, whether other programs were ``busy`` (by the load average
        of the last minute), and the parts of the ``estimate``.
    """
    mode = MODES[number]
    architecture = {**SMOLLM2_135M, "num_hidden_layers": layers}
    row = estimated(mode, architecture, rows, tokens, device.type == "cuda")
    assert row.state is not None
    parts = {
        "parameters": row.parameters.bytes + row.buffers,
        "state": row.state.bytes,
        "gradients": row.gradients.bytes,
        "activations": max(row.activations, row.step),
    }
    origin = {"date": datetime.date.today().isoformat(), "threads": torch.get_num_threads()}
    measured = measure(mode, architecture, rows, tokens, device, steps)
    busy = (load() or 0.0) > torch.get_num_threads() + 1
    return {"name": mode.name, **origin, "busy": busy, "estimate": parts, **measured}


def _in_own_process(number: int, options: argparse.Namespace) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        words = [sys.executable, "-m", "benchmarks.memory", "--mode", str(number), "--output", str(file)]
        for name in ("device", "layers", "rows", "tokens", "steps", "threads"):
            if (value := getattr(options, name)) is not None:
                words += [f"--{name}", str(value)]
        run = subprocess.run(words, env=dict(os.environ), capture_output=True, text=True, check=False)
        if run.returncode or not file.exists():
            print(f"{MODES[number].name} ended with status {run.returncode}:\n{run.stderr[-2000:]}", file=sys.stderr)
            return None
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return result


def _setting(options: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(options, name) for name in _SETTING}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=4, metavar="N", help="blocks in a batch (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="tokens in a block (default: %(default)s)")
    parser.add_argument(
        "--layers",
        type=int,
        default=SMOLLM2_135M["num_hidden_layers"],
        metavar="N",
        help="layers of the model; fewer for a quick try (default: %(default)s)",
    )
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="timed steps (default: %(default)s)")
    parser.add_argument(
        "--float32-only",
        action="store_true",
        help="leave out bfloat16 parameters, with which a step takes minutes on a CPU without AVX-512",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep what FOLDER/memory.json holds of the same setting on the same device, and measure the rest",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument(
        "--output", type=Path, default=Path("docs/memory"), metavar="FOLDER", help="(default: %(default)s)"
    )
    parser.add_argument("--mode", type=int, help=argparse.SUPPRESS)  # a process of its own: writes JSON to --output
    return parser


if __name__ == "__main__":
    sys.exit(main())
