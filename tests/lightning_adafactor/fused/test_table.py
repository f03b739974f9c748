"""The work table: every element in one tile, every partial sum in a place of its own, wide accesses where allowed."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_adafactor import Adafactor
from lightning_adafactor.entry import Entry
from lightning_adafactor.fused.fields import CHUNK, Field, Flag, Option
from lightning_adafactor.fused.table import Tiling, WorkTable, layout, signature
from lightning_adafactor.rule import Rule
from tests.lightning_adafactor.fused.models import entries_of

TILING = Tiling(16, 8, 8)
SHAPES = [(40, 24), (3, 7, 9), (5, 4, 3, 3), (1, 2, 1, 3, 4), (11, 1), (1, 13), (), (300,), (2500, 3)]


def entry_of(param: Tensor, *, grad: Tensor | None = None, rule: Rule | None = None, index: int = 0) -> Entry:
    rule = rule or Rule(lr=1e-2)
    state = Adafactor([param])._new_state(param, rule)
    return Entry.of(param, torch.zeros_like(param) if grad is None else grad, state, index, rule)


def flags_of(*args: Any, **kwargs: Any) -> Flag:
    table = WorkTable([entry_of(*args, **kwargs)], TILING)
    return Flag(int(table.params[0, Field.FLAGS]))


# Tiles and chunks --------------------------------------------------------------------------------------------------


def test_tiles_cover_every_element_once() -> None:
    table = WorkTable([entry_of(torch.zeros(shape)) for shape in SHAPES], TILING)
    seen: Counter[tuple[int, ...]] = Counter()
    for number, matrix, row_tile, column_tile in table.tiles.tolist():
        row = table.params[number].tolist()
        n, m = row[Field.ROWS], row[Field.COLUMNS]
        if row[Field.FLAGS] & Flag.FACTORED:
            rows = range(row_tile * TILING.rows, min(n, (row_tile + 1) * TILING.rows))
            columns = range(column_tile * TILING.columns, min(m, (column_tile + 1) * TILING.columns))
        else:
            size = TILING.rows * TILING.columns
            rows, columns = range(1), range(row_tile * size, min(m, (row_tile + 1) * size))
        assert rows
        assert columns
        seen.update((number, matrix, i, j) for i in rows for j in columns)
    assert set(seen.values()) == {1}
    assert len(seen) == sum(torch.Size(shape).numel() for shape in SHAPES)


def test_tiles_of_a_parameter_are_numbered_from_its_first() -> None:
    table = WorkTable([entry_of(torch.zeros(shape)) for shape in SHAPES], TILING)
    owners = table.tiles[:, 0].tolist()
    assert owners == sorted(owners)
    assert table.params[:, Field.FIRST_TILE].tolist() == [owners.index(number) for number in range(len(SHAPES))]


def test_chunks_cover_every_row_and_column_of_matrices_once() -> None:
    table = WorkTable([entry_of(torch.zeros(shape)) for shape in SHAPES], TILING)
    seen: Counter[tuple[int, ...]] = Counter()
    for number, matrix, chunk, axis in table.chunks.tolist():
        size = int(table.params[number, (Field.ROWS, Field.COLUMNS)[axis]])
        places = range(chunk * CHUNK, min(size, (chunk + 1) * CHUNK))
        assert places
        seen.update((number, matrix, axis, place) for place in places)
    assert set(seen.values()) == {1}
    factored = [shape for shape in SHAPES if len(shape) > 1]
    assert len(seen) == sum(torch.Size(shape[:-2]).numel() * (shape[-2] + shape[-1]) for shape in factored)


def test_partial_sums_overlap_nowhere_and_fill_the_workspace() -> None:
    table = WorkTable([entry_of(torch.zeros(shape)) for shape in SHAPES], TILING)
    spans = []
    for row in table.params.tolist():
        if row[Field.FLAGS] & Flag.FACTORED:
            matrices = row[Field.MATRICES]
            spans.append((row[Field.ROW_SUMS], row[Field.COLUMN_TILES] * matrices * row[Field.ROWS]))
            spans.append((row[Field.COLUMN_SUMS], row[Field.ROW_TILES] * matrices * row[Field.COLUMNS]))
            spans.append((row[Field.MEAN_SUMS], matrices * row[Field.MEAN_CHUNKS]))
    end = 0
    for start, length in sorted(spans):
        assert start == end
        end = start + length
    assert end == table.workspace.numel()


def test_2_to_the_31_elements_and_more_are_described_without_overflow() -> None:
    shapes = [(2**16, 2**16), (2**32 + 8,)]
    entries = entries_of(shapes, torch.bfloat16)
    table = WorkTable(entries, Tiling.of(torch.bfloat16), torch.device("cpu"))
    assert table.params[:, Field.COLUMNS].tolist() == [2**16, 2**32 + 8]
    assert len(table.tiles) == 2**16 + 2**16 + 1


# Layouts -----------------------------------------------------------------------------------------------------------


def offsets(shape: Any, name: str) -> Iterator[int]:
    """Where the elements lie by a layout, in the order of the elements."""
    *batch_strides, row, column = shape.strides[name]
    for i0 in range(shape.batch[0]):
        for i1 in range(shape.batch[1]):
            for i2 in range(shape.batch[2]):
                start = i0 * batch_strides[0] + i1 * batch_strides[1] + i2 * batch_strides[2]
                yield from (start + i * row + j * column for i in range(shape.rows) for j in range(shape.columns))


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "scalar": lambda: torch.zeros(()),
    "vector": lambda: torch.zeros(7),
    "vector of every other": lambda: torch.zeros(14)[::2],
    "matrix": lambda: torch.zeros(3, 4),
    "transposed": lambda: torch.zeros(3, 4).t(),
    "conv": lambda: torch.zeros(2, 3, 4, 5),
    "channels last": lambda: torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "five dimensions": lambda: torch.zeros(2, 3, 2, 3, 4),
    "five dimensions, reversed": lambda: torch.zeros(4, 3, 2, 3, 2).permute(4, 3, 2, 1, 0),
    "sizes of one": lambda: torch.zeros(1, 3, 1, 4, 1),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_finds_every_element(name: str) -> None:
    param = LAYOUTS[name]()
    entry = entry_of(param)
    shape = layout(entry)
    for which, tensor in (("param", entry.param), ("grad", entry.grad)):
        numbered = torch.arange(tensor.untyped_storage().nbytes() // 4).as_strided(tensor.shape, tensor.stride())
        assert list(offsets(shape, which)) == numbered.flatten().tolist()


def test_transposed_parameters_are_described_as_their_transposes() -> None:
    flags = flags_of(torch.zeros(8, 16).t())
    assert flags == Flag.FACTORED | Flag.ALIGNED | Flag.MEAN_OF_COLUMNS


# Wide accesses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 16), (2, 5, 8), (64,)])
def test_rows_of_a_multiple_of_eight_are_aligned(shape: tuple[int, ...]) -> None:
    assert Flag.ALIGNED in flags_of(torch.zeros(shape))


NOT_ALIGNED: dict[str, Callable[[], dict[str, Any]]] = {
    "columns not a multiple of 8": lambda: {"param": torch.zeros(16, 12)},
    "vector not a multiple of 8": lambda: {"param": torch.zeros(12)},
    "parameter off by one element": lambda: {"param": torch.zeros(129)[1:].view(8, 16)},
    "gradient off by one element": lambda: {"param": torch.zeros(8, 16), "grad": torch.zeros(129)[1:].view(8, 16)},
    "gradient transposed": lambda: {"param": torch.zeros(16, 16), "grad": torch.zeros(16, 16).t()},
    "rows of odd length": lambda: {"param": torch.zeros(8, 17)[:, :16]},
    "every other column": lambda: {"param": torch.zeros(8, 32)[:, ::2]},
}


@pytest.mark.parametrize("name", NOT_ALIGNED)
def test_wide_accesses_are_not_allowed(name: str) -> None:
    assert Flag.ALIGNED not in flags_of(**NOT_ALIGNED[name]())


def test_rows_of_2_to_the_23_and_more_are_not_aligned_for_their_offsets_outgrow_32_bits() -> None:
    entries = entries_of([(4, 2**23 - 8), (4, 2**23)], torch.bfloat16)
    table = WorkTable(entries, Tiling.of(torch.bfloat16), torch.device("cpu"))
    aligned = [bool(flags & Flag.ALIGNED) for flags in table.params[:, Field.FLAGS].tolist()]
    assert aligned == [True, False]


# What rebuilds a table ---------------------------------------------------------------------------------------------


def test_signature_is_the_same_for_another_lr_and_other_gradients() -> None:
    param = torch.zeros(16, 8)
    one = entry_of(param, rule=Rule(lr=0.1))
    other = entry_of(param, rule=Rule(lr=0.2))
    for name in ("step", "row_var", "col_var"):
        setattr(other, name, getattr(one, name))
    assert signature([one]) == signature([other])


CHANGES: dict[str, Callable[[Entry], Any]] = {
    "parameter": lambda entry: setattr(entry, "param", entry.param.clone()),
    "row_var": lambda entry: setattr(entry, "row_var", entry.row_var.clone()),
    "col_var": lambda entry: setattr(entry, "col_var", entry.col_var.clone()),
    "step": lambda entry: setattr(entry, "step", entry.step.clone()),
    "strides of the gradient": lambda entry: setattr(entry, "grad", entry.grad.t().contiguous().t()),
    "alignment of the gradient": lambda entry: setattr(entry, "grad", torch.zeros(129)[1:].view(16, 8)),
    "momentum": lambda entry: setattr(entry, "exp_avg", torch.zeros(16, 8)),
    "index": lambda entry: setattr(entry, "index", 7),
    "seed": lambda entry: setattr(entry, "rule", Rule(lr=1e-2, seed=1)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_signature_changes_with(what: str) -> None:
    entry = entry_of(torch.zeros(16, 8))
    before = signature([entry])
    kept = [entry.param, entry.grad, entry.row_var, entry.col_var, entry.step]  # no address is used again
    CHANGES[what](entry)
    assert signature([entry]) != before
    assert kept


@pytest.mark.parametrize("what", ["variance", "rms"])
def test_signature_changes_with_the_memory_of_a_vectors(what: str) -> None:
    entry = entry_of(torch.zeros(16))
    entry.rms = torch.zeros(())
    before = signature([entry])
    kept = getattr(entry, what)  # no address is used again
    setattr(entry, what, kept.clone())
    assert signature([entry]) != before


def test_update_takes_over_gradients_and_options_in_place() -> None:
    param = torch.zeros(16, 8)
    first = entry_of(param, rule=Rule(lr=0.1))
    table = WorkTable([first], TILING)
    places = table.grads.data_ptr(), table.options.data_ptr()
    second = dataclasses.replace(first, grad=torch.ones(16, 8), rule=Rule(lr=0.2, maximize=True))
    assert table.update([second])
    assert table.grads.tolist() == [second.grad.data_ptr()]
    assert table.options[0, Option.LR] == 0.2
    assert table.options[0, Option.SIGN] == -1
    assert (table.grads.data_ptr(), table.options.data_ptr()) == places


def test_update_of_the_same_entries_takes_over_gradients_and_options() -> None:
    entry = entry_of(torch.zeros(16, 8), rule=Rule(lr=0.1))
    table = WorkTable([entry], TILING)
    entry.grad, entry.rule = torch.ones(16, 8), Rule(lr=0.2)
    assert table.update([entry])
    assert table.grads.tolist() == [entry.grad.data_ptr()]
    assert table.options[0, Option.LR] == 0.2


@pytest.mark.parametrize("what", ["alignment of the gradient", "seed"])
def test_update_of_the_same_entries_asks_for_a_new_table_for_another(what: str) -> None:
    entry = entry_of(torch.zeros(16, 8))
    table = WorkTable([entry], TILING)
    CHANGES[what](entry)
    assert not table.update([entry])


@pytest.mark.parametrize("what", CHANGES)
def test_update_asks_for_a_new_table_for_another(what: str) -> None:
    entry = entry_of(torch.zeros(16, 8))
    table = WorkTable([entry], TILING)
    other = dataclasses.replace(entry)
    CHANGES[what](other)
    assert not table.update([other])


def test_groups_share_a_row_of_options() -> None:
    rules = [Rule(lr=0.1), Rule(lr=0.2)]
    entries = [entry_of(torch.zeros(4), rule=rules[number % 2], index=number) for number in range(5)]
    table = WorkTable(entries, TILING)
    assert table.options[:, Option.LR].tolist() == [0.1, 0.2]
    assert table.params[:, Field.GROUP].tolist() == [0, 1, 0, 1, 0]
