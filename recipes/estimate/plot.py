"""``estimate.png``: memory with each optimizer as stacked bars, and the memory to fit into."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = {
    "parameters": "#33658a",
    "gradients": "#86bbd8",
    "optimizer state": "#d1495b",
    "activations and other temporaries (upper bound)": "#d9dde2",
}
LIMIT = "#1f2933"


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Draws an estimate.

    Args:
        result: What ``estimate.json`` holds.
        file: The PNG to write.
    """
    from matplotlib.figure import Figure

    rows = [row for row in result["estimates"] if row["total_bytes"] is not None]
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    count = max(sum(row["dtype"] == dtype for row in rows) for dtype in dtypes)
    figure = Figure(figsize=(12, 1.9 + 0.42 * count), dpi=120, layout="constrained")
    memory = result["gpu_memory_bytes"]
    largest = max(row["total_bytes"] for row in rows)
    unit, divisor = ("GB", 2**30) if largest >= 2**30 else ("MB", 2**20)
    panels = figure.subplots(1, len(dtypes), squeeze=False, sharex=True, sharey=True)[0]
    for axes, dtype in zip(panels, dtypes, strict=True):
        _draw_bars(axes, [row for row in rows if row["dtype"] == dtype], divisor)
        axes.set_title(f"{dtype} parameters, {unit}", fontsize=10, loc="left")
        if memory is not None and memory < 3 * largest:
            axes.axvline(memory / divisor, color=LIMIT, linestyle="--", linewidth=1.2)
            axes.annotate(
                f" {memory / divisor:,.1f} {unit} to fit into",
                (memory / divisor, -0.55),
                fontsize=8,
                color=LIMIT,
                va="bottom",
                ha="left",
                annotation_clip=False,  # else it is left out where few bars make the axis end below it
            )
    panels[0].set_xlabel("+ release: with gradient release (model.gradient_release)", fontsize=8)
    end = max(largest, memory if memory is not None and memory < 3 * largest else 0)
    panels[0].invert_yaxis()
    panels[0].set_xlim(0, 1.22 * end / divisor)
    shape: list[int] = next((shape for shape in result["batch"].values() if len(shape) == 2), [])
    figure.suptitle(
        f"{result['recipe']}: memory of a training step, {result['parameters']['elements']:,} parameters, batches of "
        f"{' × '.join(map(str, shape))} tokens, {result['precision']}"
    )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PARTS), frameon=False, fontsize=9)
    figure.savefig(file)


def _draw_bars(axes: "Axes", rows: list[Mapping[str, Any]], divisor: int) -> None:
    names = [f"{row['name']}{' + release' if row['gradient_release'] else ''}" for row in rows]
    left = [0.0] * len(rows)
    parts = [part_bytes(row) for row in rows]
    for place, (part, color) in enumerate(PARTS.items()):
        values = [sizes[place] / divisor for sizes in parts]
        axes.barh(names, values, left=left, color=color, label=part, height=0.7)
        left = [start + value for start, value in zip(left, values, strict=True)]
    digits = 1 if divisor == 2**30 else 0
    for place, (total, row) in enumerate(zip(left, rows, strict=True)):
        verdict = {True: " ✓", False: " ✗", None: ""}[row["fits"]]
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
        axes.text(1.01 * total, place, f" {total:,.{digits}f}{verdict}", va="center", fontsize=8, bbox=box)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.grid(axis="x", color="#e5e7ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def part_bytes(row: Mapping[str, Any]) -> tuple[int, ...]:
    """The bytes of each of ``PARTS``, which add up to the total.

    Args:
        row: One of the estimates in ``estimate.json``, with a total.
    """
    lasting = (
        row["parameter_memory"]["bytes"] + row["buffer_bytes"],
        row["gradient_memory"]["bytes"] + row["bucket_bytes"],
        row["optimizer_state"]["bytes"],
    )
    return *lasting, row["total_bytes"] - sum(lasting)
