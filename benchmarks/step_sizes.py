"""What ``scale_parameter`` and ``relative_step`` do to the size of a step: the picture of docs/learning-rates.md.

The curves are α of :class:`lightning_adafactor.rule.Rule` with the options of the files in ``configs/optimizer/``, at
their full ``lr``, before any schedule. A step changes a tensor by α times the clipped update, whose root mean square is
about 1 and at most d.

    python -m benchmarks.step_sizes --output docs/step-sizes.png     # draws the picture, prints the table of the page
    python -m benchmarks.step_sizes --weights model.safetensors      # RMS of the tensors of a model
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import yaml

from lightning_adafactor.rule import Rule

OPTIMIZERS = Path(__file__).parents[1] / "configs" / "optimizer"
FILES = ("adafactor", "adafactor_t5", "adafactor_paper")
WARMED = "adafactor_paper, warmup_init: true"
INITIAL_RMS = 0.02
"""RMS of the initial weights of BERT and GPT-2 (``initializer_range`` of their configurations in transformers)."""

STEPS = tuple(round(10 ** (i / 20)) for i in range(121))  # 1 to 10^6
SIZES = tuple(10 ** (i / 20) for i in range(-100, 21))  # 1e-5 to 10
STEP = 1_000
"""The step at which sizes are compared over RMS(p)."""

_TABLE_SIZES = {"0, a bias at first": 0.0, "0.02, initial weights": INITIAL_RMS, "1, a norm at first": 1.0}
_TABLE_STEPS = (1, 10_000, 1_000_000)


def read_rule(file: Path) -> Rule:
    """The rule of an optimizer file, whose class must be ``lightning_adafactor.Adafactor``."""
    optimizer = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["init_args"]["optimizer"]
    if optimizer["class_path"] != "lightning_adafactor.Adafactor":
        raise ValueError(f"{file} has the optimizer {optimizer['class_path']}, not lightning_adafactor.Adafactor")
    options = optimizer["init_args"]
    return Rule(
        lr=options["lr"],
        eps2=options["eps"][1],
        scale_parameter=options["scale_parameter"],
        relative_step=options["relative_step"],
        warmup_init=options["warmup_init"],
    )


def rules() -> dict[str, Rule]:
    """The rules that are drawn, by label: each of ``FILES``, and the last one with ``warmup_init``."""
    found = {name: read_rule(OPTIMIZERS / f"{name}.yaml") for name in FILES}
    return {**found, WARMED: dataclasses.replace(found["adafactor_paper"], warmup_init=True)}


def over_steps(rule: Rule, rms: float = INITIAL_RMS) -> list[float]:
    """α at each of ``STEPS``, for a tensor whose RMS stays the same."""
    return [rule.alpha(t, rms) for t in STEPS]


def over_sizes(rule: Rule, t: int = STEP) -> list[float]:
    """α of step t for each of ``SIZES``, the RMS of a tensor."""
    return [rule.alpha(t, rms) for rms in SIZES]


def table() -> str:
    """α in Markdown: a row for each rule and step, or one if ρ is the same at all of them; a column for each RMS(p)."""
    lines = [
        f"| options of | step | {' | '.join(f'RMS(p) = {name}' for name in _TABLE_SIZES)} |",
        f"|---|---:|{'---:|' * len(_TABLE_SIZES)}",
    ]
    for name, rule in rules().items():
        constant = len({rule.rho(t) for t in _TABLE_STEPS}) == 1
        for t in _TABLE_STEPS[:1] if constant else _TABLE_STEPS:
            cells = [f"{rule.alpha(t, rms):.1e}" for rms in _TABLE_SIZES.values()]
            lines.append(f"| {name} | {'any' if constant else f'{t:,}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """Draws α over the steps and over RMS(p), side by side with one scale of α.

    Args:
        path: The PNG file to write.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    for (name, rule), color in zip(rules().items(), ("tab:orange", "tab:blue", "tab:green", "tab:green"), strict=True):
        style = ":" if name == WARMED else "-"
        left.plot(STEPS, over_steps(rule), color=color, linestyle=style, label=name)
        if name != WARMED:  # which at STEP happens to equal adafactor_t5
            right.plot(SIZES, over_sizes(rule), color=color)
    left.set_title(f"relative_step, warmup_init: a tensor with RMS(p) = {INITIAL_RMS}", fontsize="medium")
    left.set_xlabel("step t")
    left.set_ylabel("α, about the root mean square of a step")
    right.set_title(f"scale_parameter: step {STEP:,}", fontsize="medium")
    right.set_xlabel("RMS(p), the root mean square of a tensor")
    for rms, text in ((1e-3, "ε₂"), (INITIAL_RMS, "initial weights\nof BERT, GPT-2"), (1.0, "initial\nnorms")):
        right.axvline(rms, color="gray", linewidth=0.8, linestyle="--", zorder=0)
        right.annotate(
            text,
            (rms, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(3, 0),
            textcoords="offset points",
            fontsize="small",
            color="dimgray",
        )
    for panel in (left, right):
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, title="configs/optimizer/")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def sizes_of(weights: Path) -> list[tuple[str, list[float]]]:
    """RMS of the floating-point tensors of a safetensors file: matrices (and more dimensions), then vectors; sorted."""
    from safetensors import safe_open

    matrices: list[float] = []
    vectors: list[float] = []
    with safe_open(weights, "pt") as file:
        for key in file.keys():  # noqa: SIM118, the file is no dict
            tensor = file.get_tensor(key)
            if tensor.is_floating_point() and tensor.numel():
                rms = tensor.double().norm().item() / math.sqrt(tensor.numel())
                (matrices if tensor.dim() > 1 else vectors).append(rms)
    return [("matrices", sorted(matrices)), ("vectors", sorted(vectors))]


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_sizes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the PNG file to draw")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="a safetensors file; prints the RMS of its tensors"
    )
    given = parser.parse_args(args)
    if given.weights is not None:
        if not given.weights.is_file():
            parser.error(f"--weights {given.weights} is not a file: give a safetensors file")
        for kind, found in sizes_of(given.weights):
            if found:
                middle = statistics.median(found)
                print(f"RMS of {len(found)} {kind}: {found[0]:.3g} to {found[-1]:.3g}, median {middle:.3g}")
        return 0
    print(table())
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        draw(given.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
