"""``comparison.png``: memory against quality, and loss against training time, side by side."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recipes.compare.results import mode_of
from recipes.compare.runs import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

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
# Where a label may stand around its point, nearest first: distances in points, and directions, upward first.
DISTANCES = (10, 24, 40, 58, 80)
DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (0.8, 0.6), (-0.8, 0.6), (0.8, -0.6), (-0.8, -0.6))
WITH_A_LINE = 20  # a label farther from its point than this is tied to it with a line
MARKER = 7  # pixels around a point or an error bar that no label may cover


class Point(NamedTuple):
    """An optimizer in the left picture: its megabytes, and the mean, least and most of its quality."""

    x: float
    y: float
    low: float
    high: float
    name: str


def draw(result: dict[str, Any], outcomes: Sequence[Outcome], file: Path) -> None:
    """Draws a comparison.

    Args:
        result: What ``comparison.json`` holds.
        outcomes: The trainings; their reports have the curves.
        file: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.8), dpi=130, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    memory, time = figure.subplots(1, 2, width_ratios=[1, 1.15])
    colors = dict(_colors([row["name"] for row in result["optimizers"]]))
    _draw_loss(time, result, outcomes, colors)
    figure.suptitle(_title(result), fontsize=12)
    _draw_memory(memory, result, colors, canvas)
    figure.savefig(file)


def _title(result: dict[str, Any]) -> str:
    seeds = len(result["seeds"])
    rates = "each with the learning rate that its sweep chose" if result["swept"] else "learning rates not swept"
    return f"{result['recipe']}: {'one seed' if seeds == 1 else f'{seeds} seeds'}, {rates}"


def _colors(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    others = iter(OTHERS * (len(names) // len(OTHERS) + 1))
    for name in names:
        yield name, COLORS.get(name) or next(others)


def _draw_memory(axes: "Axes", result: dict[str, Any], colors: dict[str, str], canvas: "FigureCanvasAgg") -> None:
    """Optimizer state on a logarithmic axis against the main metric, with its spread over the seeds."""
    metric = result["main_quality"]
    points = []
    for row in result["optimizers"]:
        values = row["metrics"].get(metric)
        state = row["optimizer_state"]
        if not values or not state or not state["megabytes"]:
            continue
        x, y = state["megabytes"], values["mean"]
        below, above = y - values["min"], values["max"] - y
        axes.errorbar(
            x, y, yerr=[[below], [above]], fmt="o", color=colors[row["name"]], capsize=4, markersize=8, zorder=3
        )
        points.append(Point(x, y, values["min"], values["max"], row["name"]))
    better = {"max": " (higher is better)", "min": " (lower is better)"}.get(mode_of(metric or "") or "", "")
    bars = " (bars: worst to best seed)" if len(result["seeds"]) > 1 else ""
    _finish(axes, f"Memory against quality{bars}", "optimizer state, MB (logarithmic)", f"{metric}{better}")
    if not points:
        axes.text(0.5, 0.5, "no run finished", transform=axes.transAxes, ha="center")
        return
    axes.set_xscale("log")
    low, high = min(point.x for point in points), max(point.x for point in points)
    room = max((high / low) ** 0.22, 2.0)
    axes.set_xlim(low / room, high * room)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom - 0.2 * (top - bottom), top + 0.2 * (top - bottom))
    _plain_ticks(axes)
    _label(axes, points, colors, canvas)


def _plain_ticks(axes: "Axes") -> None:
    """Megabytes as numbers instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 3.0) if _decades(axes) < 3 else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _decades(axes: "Axes") -> float:
    from math import log10

    low, high = axes.get_xlim()
    return log10(high / low)


def _label(axes: "Axes", points: Sequence[Point], colors: dict[str, str], canvas: "FigureCanvasAgg") -> None:
    """Writes each point's label where it covers neither another label nor a point nor an error bar."""
    from matplotlib.transforms import Bbox

    canvas.draw()  # labels are placed by what stands where
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = [Bbox(axes.transData.transform([(p.x, p.low), (p.x, p.high)])).padded(MARKER) for p in points]
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        for distance, (across, along) in product(DISTANCES, DIRECTIONS):
            label = _annotate(axes, point, distance * across, distance * along, colors[point.name])
            box = _text_box(label, renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()
        else:  # nowhere is room: better over something than not at all
            _annotate(axes, point, 0, DISTANCES[0], colors[point.name])


def _annotate(axes: "Axes", point: Point, dx: float, dy: float, color: str) -> "Annotation":
    far = abs(dx) > WITH_A_LINE or abs(dy) > WITH_A_LINE
    line = {"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}
    return axes.annotate(
        f"{point.name}\n{_short(point.x)} MB",
        (point.x, point.y),
        (dx, dy),
        textcoords="offset points",
        ha="left" if dx > 0 else "right" if dx < 0 else "center",
        va="center" if dy == 0 else "bottom" if dy > 0 else "top",
        fontsize=9,
        color=color,
        arrowprops=line if far else None,
    )


def _text_box(label: "Annotation", renderer: Any) -> "Bbox":
    """The extent of an annotation's text without its line."""
    from matplotlib.text import Text

    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)


def _draw_loss(axes: "Axes", result: dict[str, Any], outcomes: Sequence[Outcome], colors: dict[str, str]) -> None:
    """Training loss over seconds of training: the first seed's curve bold, the others' thin."""
    for row in result["optimizers"]:
        label: str | None = f"{row['name']}, lr {'own' if row['lr'] is None else format(row['lr'], 'g')}"
        for outcome in outcomes:
            curve = list(_curve(outcome, row))
            if not curve:
                continue
            bold = label is not None
            axes.plot(
                *zip(*curve, strict=True),
                color=colors[row["name"]],
                linewidth=1.8 if bold else 0.8,
                alpha=1.0 if bold else 0.45,
                label=label,
            )
            label = None
    _finish(axes, "Training loss against time", "seconds of training, validations left out", "train/loss")
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)
        axes.set_xlim(left=0)


def _curve(outcome: Outcome, row: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """``(seconds, loss)`` of a run that counts for a row, neighbouring entries averaged."""
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
