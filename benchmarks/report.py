"""The measurements as text tables and as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import problem
from benchmarks.candidates import BASELINES
from benchmarks.measurement import Cell, Row
from benchmarks.timing import FLUSH_BYTES, Spread

MIB = 2**20

MODES = {
    "wall": "wall clock",
    "queued": "device events, launched while the device is still busy: the device's own time",
    "idle": "device events, launched on an idle device: launching included",
}
"""Titles of the timing modes in tables."""


def dtype_name(cell: Cell) -> str:
    """The dtype as torch calls it, without ``torch.``."""
    return str(cell.dtype).removeprefix("torch.")


def table(cell: Cell) -> str:
    """Formats the measurements of a cell as tables, one for each timing mode.

    Args:
        cell: The measurements.

    Returns:
        Lines of text, without a newline at the end.
    """
    lines = [
        f"{cell.title}, {dtype_name(cell)}: {cell.elements:,} elements in {cell.tensors} parameters",
        f"  copying the parameters takes {_ms(cell.copy)} ms ({cell.bandwidth / 1e9:,.1f} GB/s, both ways),",
        f"  so reading gradients, reading and writing parameters takes {cell.floor * 1e3:.3g} ms: the floor",
    ]
    for mode in cell.modes:
        lines += [
            "",
            f"  {MODES[mode]}",
            *_aligned([_header(cell, mode), *(_cells(r, mode) for r in cell.rows)]),
        ]
    lines += ["", *(f"  left out: {name}: {reason}" for name, reason in cell.left_out.items())]
    return "\n".join(lines).rstrip()


def _header(cell: Cell, mode: str) -> list[str]:
    columns = ["", "ms", "quartiles", "÷ floor", *(f"÷ {title}" for title in BASELINES.values())]
    if mode != cell.modes[0]:
        return [*columns, "host ms"]
    counts = [field for field in ("kernels", "copies", "syncs") if any(row.launches for row in cell.rows)]
    return [*columns, *counts, "extra MB", "state MB", "error"]


def _cells(row: Row, mode: str) -> list[str]:
    seconds = row.seconds[mode]
    quartiles = f"{seconds.low * 1e3:.4g}–{seconds.high * 1e3:.4g}"
    ratios = (row.ratios[mode].get(name) for name in BASELINES)
    cells = [
        row.candidate.name,
        _ms(seconds),
        quartiles,
        f"{row.floors[mode]:.2f}",
        *("–" if ratio is None else f"{ratio:.3f}" for ratio in ratios),
    ]
    if mode != next(iter(row.seconds)):
        return [*cells, f"{row.seconds['host'].median * 1e3:.3g}"]
    counts = map(str, dataclasses.astuple(row.launches)) if row.launches else ()
    return [
        *cells,
        *counts,
        f"{row.extra_bytes / MIB:.2f}",
        f"{row.state_bytes / MIB:.2f}",
        f"{row.error:.0e}",
    ]


def _ms(seconds: Spread) -> str:
    return f"{seconds.median * 1e3:.4g}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
        yield "  " + "  ".join([name.ljust(widths[0]), *cells])


def as_json(environment: dict[str, Any], cells: Sequence[Cell]) -> dict[str, Any]:
    """Converts all measurements to what JSON can represent.

    Args:
        environment: Device and versions, see ``benchmarks.environment``.
        cells: The measurements.

    Returns:
        Seconds, bytes and counts, units in the keys.
    """
    return {
        **environment,
        "method": {
            "parameter_std": problem.PARAMETER_STD,
            "gradient_std": problem.GRADIENT_STD,
            "touched_rows_of_lookup_tables": problem.TOUCHED_ROWS,
            "flushed_bytes_before_each_step": FLUSH_BYTES,
            "modes": {mode: MODES[mode] for cell in cells for mode in cell.modes},
            "ratios": "median of the quotients within a round; below 1 is faster than the baseline",
            "error": "largest relative error of a parameter's update in three steps, against float64",
            "extra_bytes": "peak of a step beyond parameters, gradients and state",
        },
        "cells": [_cell(cell) for cell in cells],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "model": cell.model,
        "title": cell.title,
        "dtype": dtype_name(cell),
        "tensors": cell.tensors,
        "elements": cell.elements,
        "copy_seconds": dataclasses.asdict(cell.copy),
        "bandwidth_bytes_per_second": cell.bandwidth,
        "floor_seconds": cell.floor,
        "optimizers": [
            {
                "name": row.candidate.name,
                "call": row.candidate.call,
                "seconds": {mode: dataclasses.asdict(spread) for mode, spread in row.seconds.items()},
                "times_floor": row.floors,
                "ratio_to": row.ratios,
                "extra_bytes": row.extra_bytes,
                "state_bytes": row.state_bytes,
                "error": row.error,
                "launches": dataclasses.asdict(row.launches) if row.launches else None,
            }
            for row in cell.rows
        ],
        "left_out": cell.left_out,
        "rounds_microseconds": {
            name: {mode: [round(1e6 * value, 1) for value in values] for mode, values in times.items()}
            for name, times in cell.rounds.items()
        },
    }
