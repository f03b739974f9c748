"""Estimates as ``estimate.json`` and as a table.

``estimate.json`` holds

================== ==================================================================================
recipe             Name of the configuration.
model              Class of the recipe's module.
parameters         ``elements`` of the model, frozen ones included, and how many are ``trainable``.
precision          ``trainer.precision``.
device             ``gpu`` or ``cpu``: what the activations are estimated for.
batch              Shapes of the tensors in the longest training batch.
gpu_memory_bytes   Memory to fit into; null without ``--gpu-memory`` and CUDA device.
gradient_release   Whether the recipe has gradient release on (``model.gradient_release``).
processes          ``data`` and ``tensor``: over how many devices FSDP2 and tensor parallelism shard the model (1 and 1
                   for one device), or DDP the batches if ``replicated``, with or without a copy of the gradients
                   (``gradient_as_bucket_view``).
estimates          For each dtype of the parameters, each optimizer, without and with gradient release:
                   ``name``, ``optimizer`` (class), ``own`` (the recipe's), ``dtype``, ``gradient_release``,
                   ``parameter_memory``, ``gradient_memory``, ``optimizer_state`` (each ``elements``, ``bytes``,
                   ``megabytes``, MiB), ``buffer_bytes``, ``activation_bytes`` (an upper bound), ``step_bytes``
                   (an estimate of the temporaries of the optimizer's step, when the activations are freed),
                   ``gathered`` (bytes that FSDP2 gathers: ``largest`` block, ``parameters`` at the peak, and whole
                   ``gradients`` before they are reduced), ``bucket_bytes`` (of DDP's copy of the gradients),
                   ``total_bytes`` (the sum; of the step and of activations with what is gathered only the larger),
                   ``fits``, ``spare_bytes``
                   (negative: missing), ``note``. Unknown values are null.
advice             What to change if the recipe does not fit, or which of its savings it needs, in sentences.
remarks            What is not estimated, in sentences.
================== ==================================================================================
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_adafactor.memory import StateSize
from recipes.estimate.memory_size import shown_size
from recipes.estimate.parts import Estimate, Setting

if TYPE_CHECKING:
    from rich.table import Table

WIDTH_IN_FILES = 118
ACTIVATIONS = (
    "Activations are an upper bound; parameters, gradients and state are exact, for one process{of}. "
    "Leave a margin for the overhead of the device. MB and GB are 2**20 and 2**30 bytes."
)
RELEASED = (
    "Released: with gradient release (model.gradient_release: true), which steps each block of parameters during the "
    "backward pass and frees its gradients, so that only those of the largest block count; – where the optimizer or "
    "the run does not support it."
)


def as_json(
    name: str,
    setting: Setting,
    rows: Sequence[Estimate],
    memory: int | None,
    advice: Sequence[str],
    remarks: Sequence[str],
) -> dict[str, Any]:
    """What ``estimate.json`` holds.

    Args:
        name: Name of the configuration.
        setting: The recipe.
        rows: Its estimates.
        memory: Bytes to fit into; None for no limit.
        advice: What to change if the recipe does not fit.
        remarks: What is not estimated.
    """
    return {
        "recipe": name,
        "model": type(setting.module).__name__,
        "parameters": {
            "elements": sum(parameter.numel() for parameter in setting.parameters),
            "trainable": sum(parameter.numel() for parameter in setting.parameters if parameter.requires_grad),
        },
        "precision": setting.precision,
        "device": "gpu" if setting.gpu else "cpu",
        "batch": {key: list(tensor.shape) for key, tensor in setting.data.largest_batch().items()},
        "gpu_memory_bytes": memory,
        "gradient_release": setting.releases,
        "processes": dataclasses.asdict(setting.processes),
        "estimates": [_row(row, memory) for row in rows],
        "advice": list(advice),
        "remarks": list(remarks),
    }


def _row(row: Estimate, memory: int | None) -> dict[str, Any]:
    spare = None if memory is None or row.total is None else memory - row.total
    return {
        "name": row.name,
        "optimizer": row.optimizer,
        "own": row.own,
        "dtype": row.dtype,
        "gradient_release": row.gradient_release,
        "parameter_memory": _size(row.parameters),
        "gradient_memory": _size(row.gradients),
        "optimizer_state": None if row.state is None else _size(row.state),
        "buffer_bytes": row.buffers,
        "activation_bytes": row.activations,
        "step_bytes": row.step,
        "gathered": dataclasses.asdict(row.gathered),
        "bucket_bytes": row.buckets,
        "total_bytes": row.total,
        "fits": None if spare is None else spare >= 0,
        "spare_bytes": spare,
        "note": row.note,
    }


def _size(size: StateSize) -> dict[str, int | float]:
    return {"elements": size.elements, "bytes": size.bytes, "megabytes": size.megabytes}


def print_table(result: Mapping[str, Any]) -> None:
    """Prints what ``estimate.json`` holds, one table for each dtype of the parameters."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH_IN_FILES)
    shape: list[int] = next((shape for shape in result["batch"].values() if len(shape) == 2), [])
    console.print(
        f"[bold]{result['recipe']}[/bold]: {result['parameters']['elements']:,} parameters, batches of "
        f"{' × '.join(map(str, shape))} tokens, precision {result['precision']}, on a {result['device'].upper()}",
        highlight=False,
    )
    for dtype in dict.fromkeys(row["dtype"] for row in result["estimates"]):
        rows = [row for row in result["estimates"] if row["dtype"] == dtype]
        console.print(_table(rows, dtype, result["gpu_memory_bytes"]))
    dtype_set = result["estimates"][0]["dtype"]
    first = [row for row in result["estimates"] if row["dtype"] == dtype_set and not row["gradient_release"]]
    for row in first:
        if row["note"]:
            console.print(f"{row['name']}: {row['note']}.", highlight=False, markup=False)
    states = (f"{row['name']} {row['optimizer_state']['elements']:,}" for row in first if row["optimizer_state"])
    elements = f"Elements of the optimizer state: {', '.join(states) or 'unknown'}."
    for sentence in [
        elements,
        *result["advice"],
        *result["remarks"],
        *_of_processes(result),
        ACTIVATIONS.format(of=_of(result["processes"])),
        RELEASED,
    ]:
        console.print(sentence, highlight=False, markup=False)


def _of(processes: Mapping[str, Any]) -> str:
    number = processes["data"] * processes["tensor"]
    return f" of {number}" if number > 1 else ""


def _of_processes(result: Mapping[str, Any]) -> Iterator[str]:
    """What is gathered or copied because there are several processes."""
    processes, first = result["processes"], result["estimates"][0]
    if processes["replicated"]:
        if first["bucket_bytes"]:
            yield f"DDP over {processes['data']} processes: totals include its copy of the gradients."
    elif processes["data"] * processes["tensor"] > 1:
        own = {key: shown_size(size) for key, size in first["gathered"].items()}
        dims = [f"FSDP2 over {processes['data']}"] * (processes["data"] > 1)
        dims += [f"{'tensor' if dims else 'Tensor'} parallelism over {processes['tensor']}"] * (processes["tensor"] > 1)
        yield (
            f"{' and '.join(dims)}: the figures are those of the fullest device."
            + (
                f" The largest block has {own['largest']} of {first['dtype']} parameters when it is gathered. Totals "
                f"include, beside activations, {own['parameters']} of gathered parameters (with the next block, which "
                f"is gathered ahead, and what is in no block) and {own['gradients']} of whole gradients."
                if processes["data"] > 1
                else ""
            )
        )


def _table(rows: Sequence[Mapping[str, Any]], dtype: str, memory: int | None) -> "Table":
    from rich.table import Table

    first = rows[0]
    table = Table(
        title=f"{dtype} parameters: {shown_size(first['parameter_memory']['bytes'])}, "
        f"activations up to {shown_size(first['activation_bytes'])}",
        title_justify="left",
    )
    table.add_column("optimizer", style="bold", no_wrap=True)
    for heading in ("state", "gradients", "total", "released", "total"):
        table.add_column(heading, justify="right")
        if heading == "total" and memory is not None:
            table.add_column(f"free of {shown_size(memory)}", justify="right", no_wrap=True)
    for plain, released in zip(rows[::2], rows[1::2], strict=True):
        state = plain["optimizer_state"]
        cells = [plain["name"], "unknown" if state is None else shown_size(state["bytes"])]
        for row in (plain, released):
            total = row["total_bytes"]
            if total is None and plain["total_bytes"] is not None:
                cells += ["–"] * (2 if memory is None else 3)
                continue
            cells += [shown_size(row["gradient_memory"]["bytes"]), "unknown" if total is None else shown_size(total)]
            if memory is not None:
                cells.append(_verdict(row))
        table.add_row(*cells)
    return table


def _verdict(row: Mapping[str, Any]) -> str:
    if row["fits"] is None:
        return "?"
    mark = "[green]✓[/green]" if row["fits"] else "[red]✗[/red]"
    return f"{mark} {shown_size(row['spare_bytes'])}".replace("-", "−")
