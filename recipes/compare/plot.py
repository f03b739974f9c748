"""``comparison.png``: memory against quality, and loss against training time, side by side."""

from collections.abc import Iterator, Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.compare.results import mode_of
from recipes.compare.runs import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "adafactor": "#0b6e4f",
    "adamw": "#4a5560",
    "adamw_8bit": "#33658a",
    "adamw_torchao_8bit": "#7b5ea7",
    "adafactor_transformers": "#edae49",
    "torch_adafactor": "#d1495b",
}
OTHERS = ("#2a9d8f", "#e76f51", "#8d6a9f", "#6c8f00", "#b5838d", "#264653")
POINTS_IN_A_CURVE = 40
LEGEND_COLUMNS = 3


def draw(result: dict[str, Any], outcomes: Sequence[Outcome], file: Path) -> None:
    """Draws a comparison.

    Args:
        result: What ``comparison.json`` holds.
        outcomes: The runs, whose reports have the loss curves.
        file: The PNG to write.
    """
    from matplotlib.figure import Figure

    names = [row["name"] for row in result["optimizers"]]
    rows_of_legend = -(-len(names) // LEGEND_COLUMNS)
    figure = Figure(figsize=(12, 4.6 + 0.25 * rows_of_legend), dpi=130, layout="constrained")
    memory, time = figure.subplots(1, 2, width_ratios=[1, 1.15])
    colors = dict(_colors(names))
    _draw_memory(memory, result, colors)
    _draw_loss(time, result, outcomes, colors)
    _draw_legend(figure, result, colors)
    figure.suptitle(_title(result), fontsize=12)
    figure.savefig(file)


def _title(result: dict[str, Any]) -> str:
    seeds = len(result["seeds"])
    rates = "learning rates from a sweep for each optimizer" if result["swept"] else "learning rates not swept"
    return f"{result['recipe']}: {'one seed' if seeds == 1 else f'{seeds} seeds'}, {rates}"


def _colors(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    others = iter(OTHERS * (len(names) // len(OTHERS) + 1))
    for name in names:
        yield name, COLORS.get(name) or next(others)


def _draw_legend(figure: "Figure", result: dict[str, Any], colors: dict[str, str]) -> None:
    """One legend below both halves: name, learning rate and memory of each optimizer."""
    from matplotlib.lines import Line2D

    handles = []
    for row in result["optimizers"]:
        state = row["optimizer_state"]
        rate = "own lr" if row["lr"] is None else f"lr {row['lr']:g}"
        size = f", {_short(state['megabytes'])} MB" if state else ""
        handles.append(Line2D([], [], color=colors[row["name"]], marker="o", label=f"{row['name']}, {rate}{size}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=LEGEND_COLUMNS, frameon=False, fontsize=9)


def _draw_memory(axes: "Axes", result: dict[str, Any], colors: dict[str, str]) -> None:
    """Optimizer state on a logarithmic axis against the main metric, with its spread over the seeds."""
    metric = result["main_quality"]
    sizes = []
    for row in result["optimizers"]:
        values = row["metrics"].get(metric)
        state = row["optimizer_state"]
        if not values or not state or not state["megabytes"]:
            continue
        sizes.append(state["megabytes"])
        mean = values["mean"]
        spread = [[mean - values["min"]], [values["max"] - mean]]
        axes.errorbar(
            sizes[-1], mean, yerr=spread, fmt="o", color=colors[row["name"]], capsize=4, markersize=8, zorder=3
        )
    better = {"max": " (higher is better)", "min": " (lower is better)"}.get(mode_of(metric or "") or "", "")
    bars = " (bars: worst to best seed)" if len(result["seeds"]) > 1 else ""
    _finish(axes, f"Memory against quality{bars}", "optimizer state, MB (logarithmic)", f"{metric}{better}")
    if not sizes:
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center")
        return
    axes.set_xscale("log")
    margin = max((max(sizes) / min(sizes)) ** 0.1, 1.5)
    axes.set_xlim(min(sizes) / margin, max(sizes) * margin)
    _plain_ticks(axes)


def _plain_ticks(axes: "Axes") -> None:
    """Megabytes as numbers instead of powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0) if log10(high / low) < 3 else (1.0,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_loss(axes: "Axes", result: dict[str, Any], outcomes: Sequence[Outcome], colors: dict[str, str]) -> None:
    """Training loss over seconds of training: the first seed's curve bold, the others' thin."""
    for row in result["optimizers"]:
        curves = [curve for outcome in outcomes if (curve := list(_curve(outcome, row)))]
        for place, curve in enumerate(curves):
            width, alpha = (0.8, 0.45) if place else (1.8, 1.0)
            axes.plot(*zip(*curve, strict=True), color=colors[row["name"]], linewidth=width, alpha=alpha)
    _finish(axes, "Training loss against time", "seconds of training, validations left out", "train/loss")
    if axes.lines:
        axes.set_xlim(left=0)


def _curve(outcome: Outcome, row: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """``(seconds, loss)`` of a run that counts for a row, averaged over neighbouring entries."""
    trial = outcome.trial
    if outcome.report is None or trial.choice.name != row["name"] or trial.rate != row["lr"]:
        return
    entries = [entry for entry in (outcome.report.get("history") or {}).get("losses") or [] if len(entry) == 3]
    size = max(len(entries) // POINTS_IN_A_CURVE, 1)
    for start in range(0, len(entries), size):
        part = entries[start : start + size]
        yield sum(entry[2] for entry in part) / len(part), sum(entry[1] for entry in part) / len(part)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _finish(axes: "Axes", title: str, across: str, along: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(along)
    axes.grid(color="#e5e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
