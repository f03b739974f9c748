"""Which of its savings a recipe that fits into memory needs."""

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from recipes.estimate.memory_size import shown_size
from recipes.estimate.parts import Candidate, Estimate, Setting, rows_of


def needed_savings(setting: Setting, candidate: Candidate, rows: Sequence[Estimate], memory: int | None) -> list[str]:
    """Sentences on how much memory is free, and on what each saving of the recipe does; none if it does not fit.

    Args:
        setting: The recipe.
        candidate: Its own optimizer.
        rows: Its estimates.
        memory: Bytes to fit into; None for no limit.
    """
    own = next((row for row in rows if row.own and row.gradient_release == setting.releases), None)
    if memory is None or own is None or own.total is None or own.total > memory:
        return []
    without = [
        f"- without {name}: {_verdict(row, memory)}" for name, row in _without_each(setting, candidate, rows, own)
    ]
    fits = f"The recipe fits: it takes {shown_size(own.total)}, and {shown_size(memory - own.total)} are free."
    return [fits, *without]


def _without_each(
    setting: Setting, candidate: Candidate, rows: Sequence[Estimate], own: Estimate
) -> Iterator[tuple[str, Estimate]]:
    """Each saving that is on, and the estimate with it off."""
    released = own.gradient_release
    if released:
        plain = next(row for row in rows if row.own and row.dtype == own.dtype and not row.gradient_release)
        yield "gradient release", plain
    if getattr(setting.module, "loss", "full") != "full":
        full = setting.activation_bytes(released=released, loss="full")
        if full != own.activations:
            yield "the loss in chunks", dataclasses.replace(own, activations=full)
    if setting.module.gradient_checkpointing:
        kept = setting.activation_bytes(checkpointing=False, released=released)
        yield "activation checkpointing", dataclasses.replace(own, activations=kept)
    if setting.module.activation_offload and setting.gpu:
        kept = setting.activation_bytes(released=released, offload=False)
        yield "activation offload", dataclasses.replace(own, activations=kept)
    if own.dtype == "bfloat16":
        both = rows_of(setting.held_in(torch.float32), [candidate])
        wide = next(row for row in both if row.gradient_release == released)
        if wide.total is not None:  # an optimizer may support bfloat16 alone
            yield "bfloat16 parameters", wide


def _verdict(row: Estimate, memory: int) -> str:
    assert row.total is not None
    spare = memory - row.total
    return f"fits too, {shown_size(spare)} free" if spare >= 0 else f"exceeds the memory by {shown_size(-spare)}"
