"""What to change in a recipe that does not fit into the memory there is, each change with what it was estimated at."""

import dataclasses
from collections.abc import Sequence

import torch

from recipes.estimate.memory_size import shown_size
from recipes.estimate.parts import Estimate, Setting


def advise(setting: Setting, rows: Sequence[Estimate], memory: int | None) -> list[str]:
    """Sentences on what would make the recipe with its own optimizer fit; none where it fits or nothing limits it.

    Args:
        setting: The recipe.
        rows: Its estimates.
        memory: Bytes to fit in.
    """
    rows = [row for row in rows if not row.gradient_release and row.total is not None]
    own = next((row for row in rows if row.own), None)
    if memory is None or own is None or _lack(own, memory) <= 0:
        return []
    advice = [f"The recipe as it is lacks {shown_size(_lack(own, memory))}. What would help:"]
    fits = False
    for row in rows:
        if row is not own and (row.own or row.dtype == own.dtype) and _lack(row, memory) < _lack(own, memory):
            change = "bfloat16 parameters (model.dtype: bfloat16)" if row.own else f"the optimizer {row.name}"
            advice.append(f"- {change}: {_verdict(row, memory)}")
            fits |= _lack(row, memory) <= 0
    if setting.can_checkpoint():
        row = dataclasses.replace(own, activations=setting.activation_bytes(checkpointing=True))
        advice.append(f"- activation checkpointing (model.gradient_checkpointing: true): {_verdict(row, memory)}")
        fits |= _lack(row, memory) <= 0
    if size := largest_batch(setting, own, memory):
        advice.append(f"- data.batch_size: {size}, and trainer.accumulate_grad_batches to make up for it: fits")
        fits = True
    return advice if fits else [*advice, _all_together(setting, rows, memory)]


def largest_batch(setting: Setting, row: Estimate, memory: int, checkpointing: bool | None = None) -> int:
    """The largest batch, up to the recipe's own, with which an estimate fits; 0 where one example is too much."""
    spare = max(row.activations, row.step) - _lack(row, memory)
    if row.step > spare:
        return 0
    most = int(setting.data.batch_size)
    at_most, at_least = (setting.activation_bytes(size, checkpointing) for size in (most, 1))
    if at_most <= spare:
        return most
    if at_least > spare:
        return 0
    # Activations grow almost in a line with the batch: where the line says, and below until it holds.
    size = 1 + int((most - 1) * (spare - at_least) / (at_most - at_least))
    while setting.activation_bytes(size, checkpointing) > spare:
        size -= 1
    return size


def _all_together(setting: Setting, rows: Sequence[Estimate], memory: int) -> str:
    """What is left to say where no single change is enough."""
    frugal = min(rows, key=lambda row: row.total or 0)
    checkpointing = True if setting.can_checkpoint() else None
    setting = setting.held_in(getattr(torch, frugal.dtype))
    size = largest_batch(setting, frugal, memory, checkpointing)
    least = setting.activation_bytes(1, checkpointing)
    changes = [frugal.name, f"{frugal.dtype} parameters", *(["activation checkpointing"] if checkpointing else [])]
    if size:
        return f"- together: {', '.join(changes)} and data.batch_size: {size}: fits"
    row = dataclasses.replace(frugal, activations=least)
    return (
        f"Even {', '.join(changes)} and data.batch_size: 1 lack {shown_size(_lack(row, memory))}: "
        "shorter texts, a smaller model or more memory are needed"
    )


def _lack(row: Estimate, memory: int) -> int:
    assert row.total is not None
    return row.total - memory


def _verdict(row: Estimate, memory: int) -> str:
    lack = _lack(row, memory)
    return f"still lacks {shown_size(lack)}" if lack > 0 else f"fits, {shown_size(-lack)} free"
