"""The measurements as a bar chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from benchmarks.measurement import Cell
from benchmarks.report import MODES, dtype_name

_OURS, _OTHER = "tab:orange", "tab:gray"


def draw(cells: Sequence[Cell], device: str, path: Path) -> None:
    """Draws one panel per model and dtype: a bar for each optimizer's median, its quartiles, and the floor.

    Args:
        cells: The measurements.
        device: Name of the device.
        path: The PNG file to write.
    """
    rows = max(len(cell.rows) for cell in cells)
    figure, panels = plt.subplots(
        len(cells), 1, figsize=(9, len(cells) * (1.2 + 0.3 * rows)), squeeze=False, layout="constrained"
    )
    for panel, cell in zip(panels[:, 0], cells, strict=True):
        _draw_panel(panel, cell)
    figure.suptitle(f"Time of an optimizer step on {device}")
    figure.supxlabel(f"ms, median and quartiles; {MODES[cells[0].modes[0]]}", fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_panel(panel: Axes, cell: Cell) -> None:
    mode = cell.modes[0]
    for place, row in enumerate(cell.rows):
        seconds = row.seconds[mode]
        around = [[(seconds.median - seconds.low) * 1e3], [(seconds.high - seconds.median) * 1e3]]
        color = _OURS if row.candidate.ours else _OTHER
        panel.barh(place, seconds.median * 1e3, xerr=around, color=color, error_kw={"elinewidth": 1})
        panel.annotate(
            f"{seconds.median * 1e3:.3g}",
            (seconds.high * 1e3, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    panel.axvline(cell.floor * 1e3, color="black", linestyle=":", linewidth=1)
    panel.set_yticks(range(len(cell.rows)), [row.candidate.name for row in cell.rows])
    panel.invert_yaxis()
    panel.margins(x=0.1)
    panel.set_title(f"{cell.title}, {dtype_name(cell)}", loc="left", fontsize="medium")
    panel.spines[["top", "right"]].set_visible(False)
    floor = panel.get_lines()[0]
    panel.legend(
        [Patch(color=_OURS), Patch(color=_OTHER), floor],
        ["this project", "others", f"floor, {cell.floor * 1e3:.3g} ms"],
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=3,
        frameon=False,
        fontsize="small",
    )
