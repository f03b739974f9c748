"""Tables, JSON and chart of measurements like a GPU's."""

from pathlib import Path

import pytest
import torch

from benchmarks import chart, report
from benchmarks.candidates import Candidate
from benchmarks.launches import Launches
from benchmarks.measurement import Cell, Row
from benchmarks.timing import Spread


def row(name: str, package: str, milliseconds: float) -> Row:
    queued, host = milliseconds / 1e3, 5e-3
    idle = queued + host
    return Row(
        candidate=Candidate(name, f"{package}:Any", {"lr": 1.0}, "adafactor"),
        error=1.5e-6,
        state_bytes=3 * 2**20,
        extra_bytes=2**19,
        launches=Launches(kernels=4, copies=1, syncs=0),
        seconds={
            "queued": Spread(queued, queued * 0.9, queued * 1.2),
            "idle": Spread(idle, idle, idle),
            "host": Spread(host, host, host),
        },
        floors={"queued": queued / 2e-3, "idle": idle / 2e-3},
        ratios={"queued": {"adamw-fused": queued / 8e-3}, "idle": {"adamw-fused": idle / 13e-3}},
    )


@pytest.fixture
def cell() -> Cell:
    return Cell(
        model="tiny",
        title="Tiny",
        dtype=torch.bfloat16,
        tensors=2,
        elements=1_000_000,
        copy=Spread(1e-3, 1e-3, 1e-3),
        bandwidth=4e9,
        floor=2e-3,
        modes=("queued", "idle"),
        rows=(row("ours-fused", "lightning_adafactor", 4.0), row("adamw-fused", "torch.optim", 8.0)),
        left_out={"torchao-adamw8bit": "torchao is not installed"},
        rounds={"ours-fused": {"queued": [4.00004e-3]}},
    )


def rows_of(text: str, name: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith(f"  {name} ")]


def test_gpu_table_shows_device_time_launches_and_memory_then_time_from_idle(cell: Cell) -> None:
    first, second = rows_of(report.table(cell), "ours-fused")
    assert first == [
        "ours-fused",
        "4",
        "3.6–4.8",
        "2.00",
        "–",
        "0.500",
        "4",
        "1",
        "0",
        "0.50",
        "3.00",
        "2e-06",
    ]
    assert second == ["ours-fused", "9", "9–9", "4.50", "–", "0.692", "5"]


def test_table_lists_who_was_left_out_and_why(cell: Cell) -> None:
    assert report.table(cell).endswith("left out: torchao-adamw8bit: torchao is not installed")


def test_columns_are_aligned(cell: Cell) -> None:
    lines = report.table(cell).splitlines()
    start = next(number for number, line in enumerate(lines) if "quartiles" in line)
    assert len({len(line) for line in lines[start : start + 3]}) == 1


def test_json_names_units_and_explains_the_timing_modes(cell: Cell) -> None:
    found = report.as_json({"device": "D"}, [cell])
    assert found["device"] == "D"
    assert set(found["method"]["modes"]) == {"queued", "idle"}
    (only,) = found["cells"]
    assert only["optimizers"][0]["launches"] == {"kernels": 4, "copies": 1, "syncs": 0}
    assert only["optimizers"][0]["seconds"]["queued"]["median"] == 4e-3
    assert only["rounds_microseconds"] == {"ours-fused": {"queued": [4000.0]}}


def test_chart_is_drawn_for_several_cells(cell: Cell, tmp_path: Path) -> None:
    chart.draw([cell, cell], "a device", tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
