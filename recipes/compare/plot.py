"""``comparison.png``: quality against memory and against time, and the training loss against time."""

from collections.abc import Iterator, Mapping, Sequence
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.compare.curves import loss_curve
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
OTHERS = (
    *("#2a9d8f", "#e76f51", "#8d6a9f", "#6c8f00", "#b5838d", "#264653"),
    *("#f4a261", "#a44a3f", "#457b9d", "#9c6644", "#c77dff", "#588157"),
    *("#ff006e", "#006d77", "#bc6c25", "#3a0ca3", "#90be6d", "#ae2012"),
)
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
    figure = Figure(figsize=(12, 8.6 + 0.25 * rows_of_legend), dpi=130, layout="constrained")
    (state, peak), (quality, loss) = figure.subplots(2, 2)
    colors = dict(_colors(names))
    _draw_memory(state, result, colors)
    _draw_peak(peak, result, colors)
    _draw_quality(quality, result, colors)
    _draw_loss(loss, result, outcomes, colors)
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
    """One legend below all: name, learning rate and memory of each optimizer."""
    from matplotlib.lines import Line2D

    handles = []
    for row in result["optimizers"]:
        state = row["optimizer_state"]
        rate = "own lr" if row["lr"] is None else f"lr {row['lr']:g}"
        size = f", {_short(state['megabytes'])} MB" if state else ""
        handles.append(Line2D([], [], color=colors[row["name"]], marker="o", label=f"{row['name']}, {rate}{size}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=LEGEND_COLUMNS, frameon=False, fontsize=9)


def _draw_memory(axes: "Axes", result: dict[str, Any], colors: dict[str, str]) -> None:
    """The main metric against the optimizer's state, on a logarithmic axis."""
    points = {
        row["name"]: row["optimizer_state"]["megabytes"] for row in result["optimizers"] if row["optimizer_state"]
    }
    points = {name: megabytes for name, megabytes in points.items() if megabytes}
    sizes = _draw_points(axes, result, colors, points)
    _finish(axes, "Quality against the optimizer's memory", "optimizer state, MB (logarithmic)", _quality(result))
    if sizes:
        axes.set_xscale("log")
        margin = max((max(sizes) / min(sizes)) ** 0.1, 1.5)
        axes.set_xlim(min(sizes) / margin, max(sizes) * margin)
        _plain_ticks(axes)


def _draw_peak(axes: "Axes", result: dict[str, Any], colors: dict[str, str]) -> None:
    """The main metric against the memory of the whole training."""
    points = {row["name"]: row["peak_memory_mb"] for row in result["optimizers"] if row["peak_memory_mb"]}
    _draw_points(axes, result, colors, points)
    _finish(axes, "Quality against peak memory", f"peak, MB ({result['peak_memory_is']})", _quality(result))


def _draw_points(
    axes: "Axes", result: dict[str, Any], colors: dict[str, str], points: Mapping[str, float]
) -> list[float]:
    """A point for each optimizer: the median over the seeds, and a bar from the worst to the best.

    Returns:
        Where they are on the horizontal axis.
    """
    places = []
    for row in result["optimizers"]:
        values = row["metrics"].get(result["main_quality"])
        if not values or row["name"] not in points:
            continue
        places.append(points[row["name"]])
        middle = values["median"]
        bar = [[middle - values["min"]], [values["max"] - middle]]
        color = colors[row["name"]]
        axes.errorbar(places[-1], middle, yerr=bar, fmt="o", color=color, capsize=4, markersize=8, zorder=3)
    if not places:
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center")
    return places


def _quality(result: dict[str, Any]) -> str:
    """The label of the main metric's axis."""
    metric = result["main_quality"]
    better = {"max": "higher is better", "min": "lower is better"}.get(result["main_quality_mode"] or "")
    notes = [note for note in (better, "bars: all seeds" if len(result["seeds"]) > 1 else "") if note]
    return f"{metric} ({', '.join(notes)})" if notes else str(metric)


def _draw_quality(axes: "Axes", result: dict[str, Any], colors: dict[str, str]) -> None:
    """The validation metric over seconds of training: the first seed's curve bold, the others' thin."""
    for row in result["optimizers"]:
        _draw_curves(axes, [curve for curve in row["curves"].values() if curve], colors[row["name"]], marker=".")
    timed = all(row["timing"] for row in result["optimizers"])
    monitor = (result["monitor"] or {}).get("name", "validation")
    across = "steps × seconds per step of the timing runs" if timed else "seconds of training, validations left out"
    _finish(axes, "Quality against time", across, monitor)
    if axes.lines:
        axes.set_xlim(left=0)


def _draw_curves(axes: "Axes", curves: Sequence[Sequence[Sequence[float]]], color: str, marker: str = "") -> None:
    for place, curve in enumerate(curves):
        width, alpha = (0.8, 0.45) if place else (1.8, 1.0)
        axes.plot(*zip(*curve, strict=True), color=color, linewidth=width, alpha=alpha, marker=marker)


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
        reports = [
            outcome.report
            for outcome in outcomes
            if outcome.report is not None
            and outcome.trial.timing is None
            and (outcome.trial.choice.name, outcome.trial.rate) == (row["name"], row["lr"])
        ]
        curves = [curve for report in reports if (curve := loss_curve(report, POINTS_IN_A_CURVE))]
        _draw_curves(axes, curves, colors[row["name"]])
    _finish(axes, "Training loss against time", "seconds of training, validations left out", "train/loss")
    if axes.lines:
        axes.set_xlim(left=0)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _finish(axes: "Axes", title: str, across: str, along: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(across)
    axes.set_ylabel(along)
    axes.grid(color="#e5e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
