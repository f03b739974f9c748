"""The memory of each mode as a Markdown page and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

MIB = 2**20
TOLERANCE = 0.1
"""The estimate should be this close to the allocated memory."""

PARTS = {
    "parameters": "#33658a",
    "state": "#d1495b",
    "gradients": "#86bbd8",
    "activations": "#d9dde2",
}
REST = "#b9bfc7"


def estimate_of(mode: Mapping[str, Any]) -> int:
    """All parts of a mode's estimate, in bytes."""
    return sum(mode["estimate"].values())


def markdown(report: Mapping[str, Any]) -> str:
    """Formats the page.

    Args:
        report: What ``memory.json`` holds.
    """
    facts = report["environment"]
    commands = " and ".join(f"`{command}`" for command in dict.fromkeys(mode["command"] for mode in report["modes"]))
    lines = [
        "# The memory of a training step, measured",
        "",
        f"A Llama of SmolLM2-135M's shape with {report['layers']} layers and random weights, batches of "
        f"{report['rows']} × {report['tokens']} tokens, on {facts['device']}, torch "
        f"{facts['versions']['torch']}, {facts['date'][:10]}. Written by {commands}; figures in "
        "[memory.json](memory.json).",
        "",
        "Each mode adds one saving to the one before it and runs in a process of its own. `allocated` is the peak of "
        "all tensors in a step after the first; `estimate` is what `recipes.estimate` predicts for it from shapes. "
        "`resident` is the peak of the process beyond what it was before there was a model. "
        "Sizes are in MB (2²⁰ bytes); the time is a median.",
        "",
        "| mode | parameters | state | allocated | estimate | ÷ allocated | resident | threads | s/step | last loss |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for mode in report["modes"]:
        estimate = estimate_of(mode)
        resident = mode["resident_bytes"]
        cells = [
            mode["name"],
            *(_mb(mode[key]) for key in ("parameter_bytes", "state_bytes", "allocated_bytes")),
            _mb(estimate),
            f"{estimate / mode['allocated_bytes']:.2f}",
            "–" if resident is None else _mb(resident),
            str(mode["threads"]),
            f"{mode['seconds']:.2f}",
            f"{mode['losses'][-1]:.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        *_remarks(report["modes"]),
        *_busy(report["modes"]),
        "",
        "![Estimated and measured memory of each mode](memory.png)",
        "",
    ]
    return "\n".join(lines)


def _remarks(modes: list[Mapping[str, Any]]) -> list[str]:
    """Sentences on the estimates that are off by more than the tolerance."""
    off = [mode for mode in modes if abs(estimate_of(mode) / mode["allocated_bytes"] - 1) > TOLERANCE]
    if not off:
        return [f"Each estimate is within {TOLERANCE:.0%} of what was allocated."]
    return [
        f"More than {TOLERANCE:.0%} off: {', '.join(mode['name'] for mode in off)}. The estimate is an upper bound: it "
        "takes a tenth more than the activations it counts, for what kernels allocate internally, which here is less."
    ]


def _busy(modes: list[Mapping[str, Any]]) -> list[str]:
    names = [mode["name"] for mode in modes if mode.get("busy")]
    return ["", f"Measured while other programs ran, so its time says little: {', '.join(names)}."] if names else []


def _mb(size: int) -> str:
    return f"{size / MIB:,.0f}" if size >= 10 * MIB else f"{size / MIB:.2f}"


def draw(report: Mapping[str, Any], file: Path) -> None:
    """Draws two bars for each mode: the parts of the estimate, and what was measured.

    Args:
        report: What ``memory.json`` holds.
        file: The PNG to write.
    """
    modes = report["modes"]
    figure = Figure(figsize=(10, 1.4 + 0.75 * len(modes)), dpi=120, layout="constrained")
    axes = figure.subplots()
    for place, mode in enumerate(modes):
        left = 0.0
        for part, color in PARTS.items():
            width = mode["estimate"][part] / MIB
            label = {"state": "optimizer state", "activations": "activations and temporaries"}.get(part, part)
            axes.barh(place - 0.2, width, left=left, height=0.36, color=color, label=None if place else label)
            left += width
        _write(axes, left, place - 0.2, f"{left:,.0f} estimated")
        held = {"parameters": mode["parameter_bytes"], "state": mode["state_bytes"]}
        left = 0.0
        for part, size in held.items():
            axes.barh(place + 0.2, size / MIB, left=left, height=0.36, color=PARTS[part])
            left += size / MIB
        allocated = mode["allocated_bytes"] / MIB
        label = "measured beside parameters and state"
        axes.barh(place + 0.2, allocated - left, left=left, height=0.36, color=REST, label=None if place else label)
        _write(axes, allocated, place + 0.2, f"{allocated:,.0f} allocated")
    axes.set_yticks(range(len(modes)), [mode["name"] for mode in modes])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("MB")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.suptitle(f"Peak memory of a step, {report['rows']} × {report['tokens']} tokens, SmolLM2-135M's shape")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(file)


def _write(axes: Any, end: float, place: float, text: str) -> None:
    axes.text(end, place, f" {text}", va="center", fontsize=8)
