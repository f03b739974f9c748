"""Trains a language model in bfloat16 in several ways, beside float32: ``python -m benchmarks.bf16_training``.

The same steps of ``lm.yaml`` (SmolLM2-135M on Grimm's tales) four times, each in a process of its own: parameters in
float32; in bfloat16 with stochastic rounding; in bfloat16 rounded to nearest; and in bfloat16 with the ε₁ that torch
takes for it, bfloat16's machine epsilon. Everything else is equal, so the ratios of perplexity show the loss in quality
with bfloat16, and the effect of stochastic rounding and of ε₁.
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

VARIANTS = {
    "float32": ("float32", {}),
    "bfloat16, stochastic rounding": ("bfloat16", {"stochastic_rounding": "true"}),
    "bfloat16, to nearest": ("bfloat16", {"stochastic_rounding": "false"}),
    "bfloat16, stochastic rounding, torch's ε₁": (
        "bfloat16",
        {"stochastic_rounding": "true", "eps": "[0.0078125, 0.001]"},
    ),
}
"""dtype of the parameters and arguments of the optimizer, by name in the table."""

SHORT_STEPS = 8


def command(config: str, variant: str, overrides: Sequence[str], steps: int | None) -> list[str]:
    """The command line of one training.

    Args:
        config: The recipe, such as ``lm.yaml``.
        variant: A key of ``VARIANTS``.
        overrides: More arguments of ``recipes.fit``, the same for all.
        steps: How many steps to take; None leaves it to the recipe.
    """
    dtype, arguments = VARIANTS[variant]
    words = [sys.executable, "-m", "recipes.fit", "--config", config, "--trainer.precision", "32-true"]
    words += ["--model.init_args.dtype", dtype]
    for name, value in arguments.items():
        words += [f"--model.init_args.optimizer.init_args.{name}", value]
    if steps is not None:
        words += ["--trainer.limit_train_batches", str(steps)]
    return [*words, *overrides]


def train(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """Runs a training and returns its report.

    Args:
        words: The command line.
        folder: Folder for the run; must be empty.

    Raises:
        RuntimeError: The training failed; the message ends with its last output.
    """
    environment = {**os.environ, "RUNS_DIR": str(folder)}
    run = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    reports = list(folder.rglob("report.json"))
    if run.returncode or len(reports) != 1:
        said = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
        raise RuntimeError(f"{' '.join(words)} ended with status {run.returncode}:\n{said}")
    report: dict[str, Any] = json.loads(reports[0].read_text())
    return report


def table(reports: dict[str, dict[str, Any]]) -> str:
    """Formats the perplexities as a Markdown table.

    Args:
        reports: Reports by name; the others are compared with the first.
    """
    lines = [
        "| parameters | steps | validation perplexity | test perplexity | ÷ the first | s/step | peak, MB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    first = next(iter(reports.values()))["metrics"]["test/perplexity"]
    for name, report in reports.items():
        validation, test = (report["metrics"][f"{split}/perplexity"] for split in ("val", "test"))
        cells = [
            name,
            f"{report['steps']}",
            _cell(validation, 2),
            _cell(test, 2),
            _cell(None if test is None or first is None else test / first, 3),
            _cell(report["seconds_per_step"], 2),
            f"{report['peak_memory_mb']:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, digits: int) -> str:
    """A number; – for null, which a report holds for what is not finite or unknown."""
    return "–" if value is None else f"{value:.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and prints the table.

    Args:
        arguments: The command line, without the program's name; None for ``sys.argv``.

    Returns:
        The exit code: 0, or 1 if a training failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bf16_training", description=__doc__)
    parser.add_argument("--config", default="lm.yaml", help="the recipe (default: %(default)s)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps of each training (default: the recipe's)")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_STEPS} steps each, to check that everything runs")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table, in Markdown, to a new file too")
    options, overrides = parser.parse_known_args(arguments)
    if options.output is not None and options.output.exists():
        parser.error(f"--output {options.output}: it exists and is not overwritten; name a new file")
    steps = SHORT_STEPS if options.short else options.steps
    reports: dict[str, dict[str, Any]] = {}
    for variant in VARIANTS:
        print(f"{variant} …", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                reports[variant] = train(command(options.config, variant, overrides, steps), Path(folder))
            except RuntimeError as failure:
                print(failure, file=sys.stderr)
                return 1
    first = next(iter(reports.values()))
    given = " ".join(["python -m benchmarks.bf16_training", *(sys.argv[1:] if arguments is None else arguments)])
    text = f"`{given}` on {first['device']}, seed {first['seed']}:\n\n{table(reports)}\n"
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
