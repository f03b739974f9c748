"""The work table: what the kernels of a step do, written once to device memory and kept.

A table serves all parameters of one device, parameter dtype and gradient dtype. It is rebuilt only when one of
them, its state or its options changed; new gradient addresses and a new lr are copied into it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.fused.fields import CHUNK, FIELDS, MAX_DIMS, OPTIONS, SCALARS, Field, Flag, Option, Region
from lightning_adafactor.rule import Rule

REGION = "region"
"""Among the strides of a layout: how many rows of the whole parameter lie between neighbors (of shards)."""

MAX_BATCH_STRIDES = MAX_DIMS - 2
"""The most strides that a batch of matrices may need."""

_VECTOR_BYTES = 16
_VECTOR_ELEMENTS = 8
_MAX_ALIGNED_ROW = 2**23  # times 256 rows of a tile: the kernels' offsets in a tile are int32


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Size of the tile that one program processes.

    A tile's partial sums take 4·(rows + columns) bytes of workspace, so tiles are larger where elements are smaller.

    Attributes:
        rows: Rows of a tile.
        columns: Columns of a tile, a multiple of 8.
        block_rows: Rows processed at a time; divides ``rows``.
        stages: Blocks of a tile in flight from memory at a time. Each takes shared memory: with G and p, 64 KB in
            all for float32 and 48 KB for bfloat16.
    """

    rows: int
    columns: int
    block_rows: int
    stages: int = 1

    @classmethod
    def of(cls, dtype: torch.dtype) -> Tiling:
        """The tiling for parameters of a dtype, the fastest of 57 on an H100 (``benchmarks/results``).

        128 bits for each of a warp's 32 threads span a row of a tile.
        """
        return cls(256, 128, 16, stages=4) if dtype.itemsize == 4 else cls(256, 256, 16, stages=3)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Sizes and strides of a parameter as the kernels see it: a batch of matrices, or one row for a vector."""

    batch: tuple[int, ...]
    strides: dict[str, tuple[int, ...]]
    rows: int
    columns: int

    @property
    def matrices(self) -> int:
        """How many matrices there are."""
        return math.prod(self.batch)


def layout(entry: Entry) -> Layout:
    """Reduces an entry's dimensions to a batch of at most three strides."""
    tensors = {"param": entry.param, "grad": entry.grad}
    if entry.exp_avg is not None:
        tensors["exp_avg"] = entry.exp_avg
    shape = entry.param.shape
    strides = {name: tensor.stride() for name, tensor in tensors.items()}
    if not entry.factored:
        last = {name: (stride[-1] if stride else 1) for name, stride in strides.items()}
        return Layout((1, 1, 1), {name: (0, 0, 0, 0, stride) for name, stride in last.items()}, 1, entry.param.numel())
    if entry.region is not None:
        strides[REGION] = entry.region.rows_between
    sizes: list[int] = []
    merged: dict[str, list[int]] = {name: [] for name in strides}
    for dim, size in enumerate(shape[:-2]):
        if size == 1:
            continue
        if sizes and all(merged[name][-1] == size * strides[name][dim] for name in strides):
            sizes[-1] *= size
            for name in strides:
                merged[name][-1] = strides[name][dim]
        else:
            sizes.append(size)
            for name in strides:
                merged[name].append(strides[name][dim])
    missing = MAX_BATCH_STRIDES - len(sizes)
    complete = {name: (*[0] * missing, *merged[name], *strides[name][-2:]) for name in strides}
    return Layout((*[1] * missing, *sizes), complete, shape[-2], shape[-1])


def _is_aligned(entry: Entry, shape: Layout) -> bool:
    """Whether every access to the parameter may be 128 bits wide, and offsets in a tile fit into 32 bits."""
    tensors = [tensor for tensor in (entry.param, entry.grad, entry.exp_avg) if tensor is not None]
    aligned = all(tensor.data_ptr() % _VECTOR_BYTES == 0 for tensor in tensors)
    in_memory = [strides for name, strides in shape.strides.items() if name != REGION]
    adjacent = all(strides[-1] == 1 for strides in in_memory)
    steps = [step for strides in in_memory for step in strides[:-1]]
    short = all(strides[-2] < _MAX_ALIGNED_ROW for strides in in_memory)
    return aligned and adjacent and short and all(step % _VECTOR_ELEMENTS == 0 for step in (*steps, shape.columns))


def _is_read_in_place(lr: float | Tensor, device: torch.device) -> bool:
    """Whether the kernels read lr from its own memory; else its value is copied into the table of options."""
    return isinstance(lr, Tensor) and lr.device == device and lr.dtype in (torch.float32, torch.float64)


def _options(rule: Rule, param: Tensor) -> list[float]:
    row = [0.0] * OPTIONS
    floor = max(rule.variance_floor(param), torch.finfo(torch.float32).tiny)
    lr = rule.lr
    row[Option.LR] = 0.0 if isinstance(lr, Tensor) and lr.device.type != "cpu" else float(lr)
    row[Option.BETA2_DECAY] = rule.beta2_decay
    row[Option.ADDED_TO_SQUARES] = rule.added_to_squares(param)
    row[Option.MEAN_FLOOR] = max(rule.mean_floor(param), torch.finfo(torch.float32).tiny)
    row[Option.RSQRT_CAP] = floor**-0.5
    row[Option.EPS2] = rule.eps2
    row[Option.D] = rule.d
    row[Option.WEIGHT_DECAY] = rule.weight_decay
    row[Option.BETA1] = rule.beta1 or 0.0
    row[Option.SIGN] = -1.0 if rule.maximize else 1.0
    row[Option.SCALE_PARAMETER] = rule.scale_parameter
    row[Option.RELATIVE_STEP] = rule.relative_step
    row[Option.WARMUP_INIT] = rule.warmup_init
    row[Option.DECAY_BY_ALPHA] = rule.dialect == "transformers"
    row[Option.STOCHASTIC_ROUNDING] = rule.rounds_stochastically(param)
    return row


class WorkTable:
    """The tables and the workspace of one bucket.

    Args:
        entries: The bucket's parameters, none of them empty: one device, parameter dtype and gradient dtype.
        tiling: Tile sizes.
        device: Device of the tables; None for the parameters' device. With another one, the table can be inspected but
            not launched: for parameters on the meta device it shows what a step would do.

    Attributes:
        tiling: Tile sizes.
        param_dtype: dtype of the parameters.
        grad_dtype: dtype of the gradients.
        tiles: int32 (tiles, 4): parameter, matrix, row tile, column tile.
        chunks: int32 (chunks, 4): parameter, matrix, chunk, 0 for rows or 1 for columns.
        params: int64 (parameters, FIELDS).
        grads: int64 (parameters,), addresses of the gradients.
        options: float64 (groups, OPTIONS).
        workspace: float32, partial sums.
        squares_of_p: float32 (tiles,).
        squares_of_u: float32 (tiles,).
        scalars: float32 (parameters, SCALARS).
        region: Where the elements lie in the whole parameters.
        has_momentum: Whether some parameter keeps an average of updates.
        is_stochastic: Whether some parameter is rounded stochastically.
    """

    region = Region.WHOLE

    def __init__(self, entries: Sequence[Entry], tiling: Tiling, device: torch.device | None = None) -> None:
        self.tiling = tiling
        self.device = device or entries[0].param.device
        self.param_dtype, self.grad_dtype = entries[0].param.dtype, entries[0].grad.dtype
        self.has_momentum = any(entry.exp_avg is not None for entry in entries)
        self.is_stochastic = any(entry.rule.rounds_stochastically(entry.param) for entry in entries)
        self._kept: list[Tensor] = []  # host memory that a captured graph reads again at each replay
        self._entries, self._signature = list(entries), signature(entries)
        places = {id(entry.rule): place for place, entry in reversed(list(enumerate(entries)))}
        self._places = sorted(places.values())  # of the first entry of each group
        self._host_options = self._options(entries)
        self._host_grads = _on_host([entry.grad.data_ptr() for entry in entries])
        self.options = self._on_device(self._host_options)
        self._copy_lrs_of_other_devices(entries)
        self.grads = self._on_device(self._host_grads)
        self._lay_out(entries)

    def update(self, entries: list[Entry]) -> bool:
        """Copies what may change from step to step, and only what did: addresses of gradients, and options.

        Args:
            entries: The bucket's parameters in this step.

        Returns:
            False where anything else has changed, so that a new table is needed.
        """
        grads = _on_host([entry.grad.data_ptr() for entry in entries])
        if entries == self._entries:  # the same objects, whose tensors are the same but for the gradients
            moved = not torch.equal(grads, self._host_grads)
            if _fixed_options(self._rules(entries)) != self._signature[0]:
                return False
            if moved and ((grads ^ self._host_grads) % _VECTOR_BYTES).any():
                return False
        else:
            if signature(entries) != self._signature:
                return False
            self._entries = entries
            moved = not torch.equal(grads, self._host_grads)
        if moved:
            self._copy(grads, self.grads)
            self._host_grads = grads
        options = self._options(entries)
        if not torch.equal(options, self._host_options):
            self._copy(options, self.options)
            self._host_options = options
        self._copy_lrs_of_other_devices(entries)
        return True

    def _rules(self, entries: Sequence[Entry]) -> list[Rule]:
        """The rule of each group."""
        return [entries[place].rule for place in self._places]

    def _options(self, entries: Sequence[Entry]) -> Tensor:
        """The options table, float64 on the host."""
        rows = [_options(entries[place].rule, entries[place].param) for place in self._places]
        return torch.tensor(rows, dtype=torch.float64, device="cpu")

    def workspace_bytes(self) -> int:
        """Bytes that are kept beside the optimizer's state."""
        tensors = (
            self.tiles,
            self.chunks,
            self.params,
            self.grads,
            self.options,
            self.workspace,
            self.squares_of_p,
            self.squares_of_u,
            self.scalars,
        )
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def _copy_lrs_of_other_devices(self, entries: Sequence[Entry]) -> None:
        """Copies each lr that is on another device, or of a dtype that the kernels do not read."""
        for group, rule in enumerate(self._rules(entries)):
            lr = rule.lr
            if isinstance(lr, Tensor) and lr.device.type != "cpu" and not _is_read_in_place(lr, self.device):
                self.options[group, Option.LR].copy_(lr.view(()), non_blocking=True)

    def _on_device(self, values: Tensor) -> Tensor:
        return self._copy(values, torch.empty_like(values, device=self.device))

    def _copy(self, values: Tensor, target: Tensor) -> Tensor:
        """Copies from the host without synchronizing with the device."""
        if self.device.type == "cuda":
            values = values.pin_memory()
            if torch.cuda.is_current_stream_capturing():
                self._kept.append(values)
        return target.copy_(values, non_blocking=True)

    def _lay_out(self, entries: Sequence[Entry]) -> None:
        """Numbers the tiles, and assigns each partial sum its offset in the workspace."""
        groups = _groups(entries)
        rows: list[list[int]] = []
        tiles: list[Tensor] = []
        chunks: list[Tensor] = [torch.empty(0, 4, dtype=torch.int32, device="cpu")]
        first_tile = used = 0
        for number, entry in enumerate(entries):
            shape = layout(entry)
            row = self._describe(entry, shape, groups[id(entry.rule)])
            rows.append(row)
            row[Field.FIRST_TILE] = first_tile
            row_tiles, column_tiles = row[Field.ROW_TILES], row[Field.COLUMN_TILES]
            tiles.append(_product(number, shape.matrices, row_tiles, column_tiles))
            first_tile += len(tiles[-1])
            if entry.factored:
                row_chunks, column_chunks = -(-shape.rows // CHUNK), -(-shape.columns // CHUNK)
                row[Field.MEAN_CHUNKS] = column_chunks if entry.transposed else row_chunks
                row[Field.ROW_SUMS] = used
                row[Field.COLUMN_SUMS] = row[Field.ROW_SUMS] + column_tiles * shape.matrices * shape.rows
                row[Field.MEAN_SUMS] = row[Field.COLUMN_SUMS] + row_tiles * shape.matrices * shape.columns
                used = row[Field.MEAN_SUMS] + shape.matrices * row[Field.MEAN_CHUNKS]
                for axis, count in enumerate((row_chunks, column_chunks)):
                    items = _product(number, shape.matrices, count, 1)
                    items[:, 3] = axis
                    chunks.append(items)
        self._allocate_sums(rows, used, first_tile)
        self.params = self._on_device(_on_host(rows))
        self.tiles = self._on_device(torch.cat(tiles))
        self.chunks = self._on_device(torch.cat(chunks))
        self.scalars = torch.empty(len(entries), SCALARS, dtype=torch.float32, device=self.device)

    def _allocate_sums(self, rows: list[list[int]], used: int, tiles: int) -> None:
        """Allocates partial sums: ``used`` numbers and two for each tile. The table's rows may still be changed."""
        self.workspace = torch.empty(used, dtype=torch.float32, device=self.device)
        self.squares_of_p = torch.empty(tiles, dtype=torch.float32, device=self.device)
        self.squares_of_u = torch.empty(tiles, dtype=torch.float32, device=self.device)

    def _describe(self, entry: Entry, shape: Layout, group: int) -> list[int]:
        """A parameter's row of the table, without the number of its first tile and its offsets in the workspace."""
        row = [0] * FIELDS
        row[Field.PARAM] = entry.param.data_ptr()
        row[Field.ROW_VAR] = _address(entry.row_var)
        row[Field.COL_VAR] = _address(entry.col_var)
        row[Field.VARIANCE] = _address(entry.variance)
        row[Field.EXP_AVG] = _address(entry.exp_avg)
        row[Field.RMS] = _address(entry.rms)
        row[Field.STEP] = entry.step.data_ptr()
        lr = entry.rule.lr
        if isinstance(lr, Tensor) and _is_read_in_place(lr, self.device):
            row[Field.LR], row[Field.LR_IS_DOUBLE] = lr.data_ptr(), lr.dtype == torch.float64
        else:
            row[Field.LR], row[Field.LR_IS_DOUBLE] = self.options[group, Option.LR].data_ptr(), 1
        row[Field.FLAGS] = (
            Flag.FACTORED * entry.factored
            | Flag.ALIGNED * _is_aligned(entry, shape)
            | Flag.MEAN_OF_COLUMNS * entry.transposed
        )
        row[Field.MATRICES] = shape.matrices
        row[Field.BATCH_1], row[Field.BATCH_2] = shape.batch[-2:]
        row[Field.ROWS], row[Field.COLUMNS] = shape.rows, shape.columns
        row[Field.MEAN_SIZE] = shape.columns if entry.transposed else shape.rows
        for name, field in _STRIDES.items():
            strides = shape.strides.get(name, ())
            row[field : field + len(strides)] = strides
        if entry.factored:
            row[Field.ROW_TILES] = -(-shape.rows // self.tiling.rows)
            row[Field.COLUMN_TILES] = -(-shape.columns // self.tiling.columns)
        else:
            row[Field.ROW_TILES] = -(-shape.columns // (self.tiling.rows * self.tiling.columns))
            row[Field.COLUMN_TILES] = 1
        row[Field.GROUP], row[Field.INDEX], row[Field.SEED] = group, entry.index, _signed(entry.rule.seed)
        return row


_STRIDES = {
    "param": Field.PARAM_STRIDES,
    "grad": Field.GRAD_STRIDES,
    "exp_avg": Field.EXP_AVG_STRIDES,
}


def signature(entries: Sequence[Entry]) -> list[object]:
    """All that a table depends on and that :meth:`WorkTable.update` does not update."""
    groups = _groups(entries)
    options = _fixed_options({id(entry.rule): entry.rule for entry in entries}.values())
    tensors = [
        (
            groups[id(entry.rule)],
            entry.index,
            entry.param.data_ptr(),
            entry.param.shape,
            entry.param.stride(),
            entry.grad.data_ptr() % _VECTOR_BYTES,
            entry.grad.stride(),
            entry.step.data_ptr(),
            _address(entry.row_var),
            _address(entry.col_var),
            _address(entry.variance),
            _address(entry.exp_avg),
            None if entry.exp_avg is None else entry.exp_avg.stride(),
            _address(entry.rms),
        )
        for entry in entries
    ]
    return [options, tensors]


def _groups(entries: Sequence[Entry]) -> dict[int, int]:
    """Numbers the parameter groups, which have a rule object each, in the order of their first parameters."""
    groups: dict[int, int] = {}
    for entry in entries:
        groups.setdefault(id(entry.rule), len(groups))
    return groups


def _fixed_options(rules: Iterable[Rule]) -> list[object]:
    """Options that stand in the table of parameters, and so cannot change without a new table."""
    return [
        (rule.seed, rule.stochastic_rounding, rule.lr.data_ptr() if isinstance(rule.lr, Tensor) else None)
        for rule in rules
    ]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _signed(seed: int) -> int:
    """The 64 bits of a seed as a signed integer."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed


def _product(number: int, *counts: int) -> Tensor:
    """int32 (product of counts, 4): the parameter's number and all index triples, the last varying fastest."""
    triples = torch.cartesian_prod(*(torch.arange(count, dtype=torch.int32, device="cpu") for count in counts))
    numbers = torch.full((len(triples), 1), number, dtype=torch.int32, device="cpu")
    return torch.cat([numbers, triples.view(-1, len(counts))], dim=1)


def _on_host(numbers: list[int] | list[list[int]]) -> Tensor:
    """int64, on the CPU whatever torch's default device is."""
    return torch.tensor(numbers, dtype=torch.int64, device="cpu")
