"""What the optimizer costs on many GPUs, counted from shapes: state per device, and the bytes of its two all-reduces.

The model is tested against what sharded steps hold and send (``tests/benchmarks/test_collectives.py``). It counts the
fullest device, which has the first, largest shards. FSDP2 shards parameters row by row over ``data`` devices. Tensor
parallelism over ``tensor`` devices shards projections into attention and feed-forward by rows, those out of them by
columns, embedding and head by rows, and norms not at all.

    python -m benchmarks.collectives                # the tables of docs/scale.md
    python -m benchmarks.collectives --tensor 8     # the same with FSDP2 over 8-way tensor parallelism
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Iterable, Sequence

from benchmarks.shapes import LARGE, Model, Shape

DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BANDWIDTHS = (50e9, 400e9)  # bytes a second
_NUMBER = 4  # bytes of a number of the state and of a sum: float32
_BY_COLUMNS = ("o_proj.weight", "down_proj.weight")  # of tensor parallelism, which shards all other matrices by rows


@dataclasses.dataclass(frozen=True)
class Account:
    """What one device holds and sends in a step.

    Attributes:
        parameters: Bytes of float32 parameters, and as many of gradients.
        adafactor: Bytes of Adafactor's state.
        adamw: Bytes of AdamW's state, two float32 moments.
        sent: Bytes that the optimizer's all-reduces sum, by mesh dimension.
        gradients: Bytes of the gradients that data parallelism sums in a step (reduce-scatter) on this device.
    """

    parameters: int
    adafactor: int
    adamw: int
    sent: dict[str, int]
    gradients: int


def account(shapes: Iterable[Shape], *, data: int, tensor: int = 1, scale_parameter: bool = True) -> Account:
    """Counts the fullest device.

    Args:
        shapes: The parameters, vectors and matrices.
        data: How many devices FSDP2 shards over.
        tensor: How many devices tensor parallelism shards over.
        scale_parameter: The optimizer's option, which needs Σp².
    """
    sizes = {"data": data, "tensor": tensor}
    parameters = state = adamw = gradients = 0
    sent = {"data": 0, "tensor": 0}
    for shape in shapes:
        rows, columns = sharded_over(shape, sizes)
        local = local_size(shape, sizes)
        numel = math.prod(local)
        parameters += numel
        adamw += 2 * numel + 1
        state += (sum(local) if len(local) > 1 else numel) + 1
        gradients += numel * data if data > 1 else 0
        everywhere = (*rows, *columns)
        for dim in everywhere:
            sent[dim] += 1 + scale_parameter  # ΣU², Σp²
        if len(local) > 1:
            for dim in rows:
                sent[dim] += local[1]  # sums over rows
            for dim in columns:
                sent[dim] += local[0]  # sums over columns
            for dim in everywhere if rows else ():
                sent[dim] += 1  # ΣR
    return Account(
        parameters=_NUMBER * parameters,
        adafactor=_NUMBER * state,
        adamw=_NUMBER * adamw,
        sent={dim: _NUMBER * count for dim, count in sent.items()},
        gradients=_NUMBER * gradients,
    )


def sharded_over(shape: Shape, sizes: dict[str, int]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The mesh dimensions that shard a parameter's rows (or a vector's elements), and those that shard its columns."""
    rows = ["data"]
    columns: list[str] = []
    if len(shape.size) > 1:
        (columns if shape.name.endswith(_BY_COLUMNS) else rows).append("tensor")
    return tuple(dim for dim in rows if sizes[dim] > 1), tuple(dim for dim in columns if sizes[dim] > 1)


def local_size(shape: Shape, sizes: dict[str, int]) -> tuple[int, ...]:
    """The sizes of the first shard: first tensor parallelism splits, then FSDP2."""
    rows, columns = sharded_over(shape, sizes)
    local = list(shape.size)
    for dim in sorted(rows, reverse=True):
        local[0] = -(-local[0] // sizes[dim])
    for dim in columns:
        local[1] = -(-local[1] // sizes[dim])
    return tuple(local)


def seconds(sent: dict[str, int], sizes: dict[str, int], bandwidth: float) -> float:
    """How long ring all-reduces of these bytes take at a bandwidth, latency not counted."""
    return sum(2 * (sizes[dim] - 1) / sizes[dim] * count / bandwidth for dim, count in sent.items())


def table(model: Model, *, tensor: int = 1, devices: Sequence[int] = DEVICES) -> str:
    """A Markdown table of a model, a row for each number of devices."""
    parameters = sum(math.prod(shape.size) for shape in model.shapes)
    head = ("devices", "parameters", "AdamW", "Adafactor", "sent", "of gradients", "at 50 GB/s", "at 400 GB/s")
    rows = []
    for count in devices:
        if count % tensor:
            continue
        sizes = {"data": count // tensor, "tensor": tensor}
        found = account(model.shapes, data=sizes["data"], tensor=tensor)
        total = sum(found.sent.values())
        share = f"{total / found.gradients:.3%}" if found.gradients else "–"
        times = [f"{1e3 * seconds(found.sent, sizes, bandwidth):.3f} ms" for bandwidth in BANDWIDTHS]
        held = [f"{size / 2**20:,.1f}" for size in (found.parameters, found.adamw, found.adafactor, total)]
        rows.append((str(count), *held, share, *times))
    lines = ["| " + " | ".join(row) + " |" for row in (head, ("---:",) * len(head), *rows)]
    return "\n".join([f"**{model.title}**, {parameters:,} parameters, MB per device:", "", *lines])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.collectives", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tensor", type=int, default=1, help="devices of tensor parallelism (default: 1)")
    parser.add_argument("--model", choices=LARGE, action="append", help="only these models")
    options = parser.parse_args(arguments)
    print("\n\n".join(table(LARGE[name], tensor=options.tensor) for name in options.model or LARGE))


if __name__ == "__main__":
    main()
