"""The scalars of a step as the kernels compute them: against their table, for every option and step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_adafactor import Adafactor
from lightning_adafactor.entry import Entry
from lightning_adafactor.fused import kernels
from lightning_adafactor.fused.fields import Option, Scalar
from lightning_adafactor.fused.kernels.scalars import find_omega
from lightning_adafactor.fused.table import Tiling, WorkTable
from lightning_adafactor.rule import Rule
from tests.lightning_adafactor.scalars import SCALARS, SWITCHES, Case, cases

TINY = torch.finfo(torch.float32).tiny  # the least floor of the kernels, so that 0·∞ appears nowhere


@triton.jit
def omega_of_each(
    param_table,  # int64 (parameters, FIELDS)
    option_table,  # float64 (groups, OPTIONS)
    omegas,  # float32 (parameters,), written
):
    param = tl.program_id(0).to(tl.int64)
    tl.store(omegas + param, find_omega(param_table, param, option_table))


def table_of(chosen: Sequence[Case], device: str) -> tuple[WorkTable, list[Entry]]:
    """A table of one scalar parameter for each case, as after the first two passes of its step t."""
    entries = []
    for index, case in enumerate(chosen):
        lr = case.lr.to(device) if isinstance(case.lr, Tensor) else case.lr
        rule = Rule(**{**case.options(), "lr": lr})
        param = torch.zeros((), dtype=case.dtype, device=device)
        state = Adafactor([param])._new_state(param, rule)
        state["step"] = torch.tensor(case.t - 1.0, device=device)
        state["RMS"] = torch.zeros((), device=device)
        entries.append(Entry.of(param, torch.zeros_like(param), state, index, rule))
    table = WorkTable(entries, Tiling(16, 8, 8))
    table.squares_of_p.copy_(torch.tensor([case.rms**2 for case in chosen]))
    table.squares_of_u.copy_(torch.tensor([case.rms_of_update**2 for case in chosen]))
    return table, entries


def assert_column(name: str, column: Tensor, chosen: Sequence[Case], expected: Callable[[Case], float]) -> None:
    for case, value in zip(chosen, column.tolist(), strict=True):
        assert value == pytest.approx(expected(case), rel=2e-7, abs=1e-38, nan_ok=True), (name, case)


@pytest.fixture(scope="module")
def every_switch() -> list[Case]:
    """All combinations of steps and switches, the numbers at random."""
    switches = [name for name in SWITCHES if name != "maximize"]
    return list(cases((*switches, "lr", "weight_decay", "d", "maximize"), draws=1))


def test_scalars_of_the_kernels_are_those_of_the_table_for_every_option_and_step(
    every_switch: list[Case], device: str
) -> None:
    table, entries = table_of(every_switch, device)
    kernels.find_scalars[(len(entries),)](
        table.params,
        table.options,
        table.squares_of_p,
        table.squares_of_u,
        table.scalars,
        table.scalars,
        HAS_FOUND_INF=False,
        SHARDS=False,
    )
    scalars = table.scalars.cpu()
    for column, name in ((Scalar.UPDATE_SCALE, "update_scale"), (Scalar.DECAY_FACTOR, "decay_factor")):
        assert_column(name, scalars[:, column], every_switch, SCALARS[name].formula)
    for steps in (scalars[:, Scalar.STEP].tolist(), [entry.step.item() for entry in entries]):
        assert steps == [case.t for case in every_switch]
    scaled = [number for number, case in enumerate(every_switch) if case.scale_parameter]
    recorded = torch.stack([entries[number].rms for number in scaled])
    assert_column("RMS", recorded, [every_switch[number] for number in scaled], lambda case: case.rms)


def test_omega_of_the_kernels_is_that_of_the_table_for_every_option_and_step(device: str) -> None:
    chosen = list(cases(SCALARS["omega"].depends_on))
    table, entries = table_of(chosen, device)
    omegas = torch.empty(len(entries), device=device)
    omega_of_each[(len(entries),)](table.params, table.options, omegas)
    assert_column("omega", omegas, chosen, SCALARS["omega"].formula)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        pytest.param(Option.ADDED_TO_SQUARES, SCALARS["added_to_squares"].formula, id="added_to_squares"),
        pytest.param(Option.MEAN_FLOOR, lambda case: max(SCALARS["mean_floor"].formula(case), TINY), id="mean_floor"),
        pytest.param(
            Option.RSQRT_CAP,
            lambda case: 1 / math.sqrt(max(SCALARS["variance_floor"].formula(case), TINY)),
            id="variance_floor",
        ),
    ],
)
def test_floors_that_kernels_read_are_those_of_the_table(option: Option, expected: Callable[[Case], float]) -> None:
    chosen = list(cases(("eps1", "dtype", "dialect")))
    table, _ = table_of(chosen, "cpu")
    assert_column(option.name, table.options[:, option], chosen, expected)
