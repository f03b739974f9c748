"""``report.png``: loss and evaluation curves, and the memory of the optimizer and of AdamW."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.runs.history import VALIDATION_LOSS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ADAFACTOR, ADAMW, ACCENT = "#0b6e4f", "#b0b7bf", "#d1495b"
COLORS = (ADAFACTOR, ACCENT, "#33658a", "#edae49")
SHARES = ("accuracy", "f1")  # between 0 and 1; other metrics, such as perplexity, get an axis of their own


def draw(
    report: dict[str, Any],
    losses: list[tuple[int, float, float]],
    evaluations: list[tuple[int, dict[str, float]]],
    file: Path,
) -> None:
    """Draws a report.

    Args:
        report: What ``report.json`` holds.
        losses: ``(step, mean training loss, seconds)``.
        evaluations: ``(step, validation metrics)``.
        file: The PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), dpi=120, layout="constrained")
    loss, quality, memory = figure.subplots(1, 3, width_ratios=[1, 1, 1.1])
    before = report.get("before", {})
    if before:
        evaluations = [(0, before), *evaluations]
    _draw_loss(loss, losses, evaluations)
    _draw_quality(quality, evaluations, report["metrics"], before)
    _draw_memory(memory, report)
    name = report["optimizer"].rpartition(".")[2]
    figure.suptitle(f"{report['recipe']}: {report['parameters']:,} parameters, {report['steps']:,} steps of {name}")
    figure.savefig(file)


def _draw_loss(
    axes: "Axes", losses: list[tuple[int, float, float]], evaluations: list[tuple[int, dict[str, float]]]
) -> None:
    if losses:
        steps, values, _ = zip(*losses, strict=True)
        axes.plot(steps, values, color=ADAFACTOR, label="training")
    points = [(step, metrics[VALIDATION_LOSS]) for step, metrics in evaluations if VALIDATION_LOSS in metrics]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color=ACCENT, label="validation")
    _finish(axes, "Loss", "step")
    low, high = axes.dataLim.intervaly
    if low < high / 2:
        axes.set_ylim(bottom=0)


def _draw_quality(
    axes: "Axes",
    evaluations: list[tuple[int, dict[str, float]]],
    metrics: dict[str, float],
    before: dict[str, float],
) -> None:
    names = [name.removeprefix("val/") for name in metrics if name.startswith("val/") and name != VALIDATION_LOSS]
    names.sort(key=lambda name: name in SHARES)
    two_scales = bool(names) and names[0] not in SHARES and names[-1] in SHARES
    right = axes.twinx() if two_scales else axes
    for name, color in zip(names, COLORS, strict=False):
        points = [(step, values[f"val/{name}"]) for step, values in evaluations if f"val/{name}" in values]
        scale = right if name in SHARES else axes
        if points:
            scale.plot(*zip(*points, strict=True), "o-", color=color, label=f"val/{name}")
        test = metrics.get(f"test/{name}")
        if test is not None:
            label = f"test/{name} {_short(test)}"
            if f"test/{name}" in before:
                label += f", before {_short(before[f'test/{name}'])}"
            scale.axhline(test, color=color, linestyle="--", linewidth=1, label=label)
        if two_scales:
            scale.set_ylabel(name, color=color)
            scale.tick_params(axis="y", colors=color)
    low, high = axes.dataLim.intervaly
    if two_scales and low > 0 and high > 20 * low:
        axes.set_yscale("log")
    _finish(axes, "Validation, and the best checkpoint's test", "step", right)


def _short(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.2f}"


def _draw_memory(axes: "Axes", report: dict[str, Any]) -> None:
    name = report["optimizer"].rpartition(".")[2]
    sizes = [report["optimizer_state"], report["adamw_state"]]
    values = [size["megabytes"] for size in sizes]
    bars = axes.bar([name, "AdamW would hold"], values, color=[ADAFACTOR, ADAMW], width=0.6)
    labels = [f"{size['megabytes']:,.2f} MB\n{size['elements']:,} elements" for size in sizes]
    axes.bar_label(bars, labels, padding=4, fontsize=9)
    axes.set_yscale("log")
    axes.set_ylim(min(values) / 3, max(values) * 4)
    _finish(axes, "Optimizer state, MB (logarithmic)", "")


def _finish(axes: "Axes", title: str, label: str, right: "Axes | None" = None) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(label)
    if label == "step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e5e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    top = axes if right is None else right
    for each in {axes, top}:
        each.spines["top"].set_visible(False)
        each.spines["right"].set_visible(top is not axes)
    handles = [line for each in dict.fromkeys((axes, top)) for line in each.get_legend_handles_labels()[0]]
    if handles:
        # With two scales, no corner is free for the legend.
        place: dict[str, Any] = (
            {} if top is axes else {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "ncols": 2}
        )
        top.legend(handles=handles, frameon=False, fontsize=8, **place)
