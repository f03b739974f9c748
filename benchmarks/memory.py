"""The memory of training a language model of 135 million parameters, estimated and measured, mode by mode.

Each mode adds one saving to the one before it, and runs in a process of its own. Weights and tokens are random, and
nothing is downloaded. The peak of a step after the first is measured:

allocated  tensors, as torch's profiler (CPU) or allocator (CUDA) counts them; this is what recipes.estimate predicts
resident   the memory of the process beyond what it was before there was a model (CPU, Linux only)

The table, its figures (JSON) and a picture are written to one folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.environment import describe
from benchmarks.memory_report import draw, markdown
from benchmarks.training_memory import MODES, SMOLLM2_135M, estimated, measure


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
    facts = describe(device)
    results = []
    for number, mode in enumerate(MODES):
        if options.float32_only and mode.dtype != "float32":
            continue
        print(f"{mode.name} …", file=sys.stderr, flush=True)
        result = _in_own_process(number, options)
        if result is None:
            return 1
        results.append(result)
    command = " ".join(["python -m benchmarks.memory", *(sys.argv[1:] if arguments is None else arguments)])
    report = {"command": command, "environment": facts, **_setting(options), "modes": results}
    (options.output / "memory.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = markdown(report)
    (options.output / "memory.md").write_text(text, encoding="utf-8")
    draw(report, options.output / "memory.png")
    print(text)
    return 0


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
        The measurements, the mode's name, and the parts of the ``estimate``.
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
    return {"name": mode.name, "estimate": parts, **measure(mode, architecture, rows, tokens, device, steps)}


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
    names = ("layers", "rows", "tokens", "steps", "float32_only")
    return {name: getattr(options, name) for name in names}


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
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    parser.add_argument("--output", type=Path, default=Path("docs"), metavar="FOLDER", help="(default: %(default)s)")
    parser.add_argument("--mode", type=int, help=argparse.SUPPRESS)  # a process of its own: writes JSON to --output
    return parser


if __name__ == "__main__":
    sys.exit(main())
