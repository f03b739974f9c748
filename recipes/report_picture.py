"""``report.png``: loss and evaluation curves, and the optimizer's memory against AdamW's, in one picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ADAFACTOR, ADAMW, ACCENT = "#0b6e4f", "#b0b7bf", "#d1495b"


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
    _draw_loss(loss, losses, evaluations)
    _draw_quality(quality, evaluations, report["metrics"])
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
    points = [(step, metrics["val/loss"]) for step, metrics in evaluations if "val/loss" in metrics]
    if points:
        axes.plot(*zip(*points, strict=True), "o-", color=ACCENT, label="validation")
    _finish(axes, "Loss", "step")
    axes.set_ylim(bottom=0)


def _draw_quality(axes: "Axes", evaluations: list[tuple[int, dict[str, float]]], metrics: dict[str, float]) -> None:
    names = [name for name in metrics if name.startswith("val/") and name != "val/loss"]
    for name, color in zip(names, (ADAFACTOR, ACCENT, "#33658a", "#edae49"), strict=False):
        points = [(step, values[name]) for step, values in evaluations if name in values]
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=name)
        test = metrics.get(name.replace("val/", "test/"))
        if test is not None:
            axes.axhline(
                test,
                color=color,
                linestyle="--",
                linewidth=1,
                label=f"{name.replace('val/', 'test/')} {test:.4f}",
            )
    _finish(axes, "Validation, and the best checkpoint's test", "step")


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


def _finish(axes: "Axes", title: str, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(label)
    if label == "step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color="#e5e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(frameon=False, fontsize=8)
