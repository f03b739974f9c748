"""What to change in a recipe that does not fit into memory, with the estimate of each change."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from recipes.estimate.memory_size import shown_size
from recipes.estimate.parts import Estimate, Setting


def advise(setting: Setting, rows: Sequence[Estimate], memory: int | None, trainer: Mapping[str, Any]) -> list[str]:
    """Sentences on what would make the recipe fit with its own optimizer; none if it fits or has no limit.

    Args:
        setting: The recipe.
        rows: Its estimates.
        memory: Bytes to fit into; None for no limit.
        trainer: The settings of its trainer.
    """
    known = [row for row in rows if row.total is not None]
    rows = [row for row in known if row.gradient_release == setting.releases]
    own = next((row for row in rows if row.own), None)
    if memory is None or own is None or _excess(own, memory) <= 0:
        return []
    advice = [f"The recipe exceeds the memory by {shown_size(_excess(own, memory))}. What would help:"]
    fits = False
    for row in rows:
        if row is not own and (row.own or row.dtype == own.dtype) and _excess(row, memory) < _excess(own, memory):
            change = "bfloat16 parameters (model.dtype: bfloat16)" if row.own else f"the optimizer {row.name}"
            advice.append(f"- {change}: {_verdict(row, memory)}")
            fits |= _excess(row, memory) <= 0
    released = next((row for row in known if row.own and row.dtype == own.dtype and row.gradient_release), own)
    if released is not own:
        keys = ", ".join(["model.gradient_release: true", *_settings_for_release(trainer)])
        advice.append(f"- gradient release ({keys}): {_verdict(released, memory)}")
        fits |= _excess(released, memory) <= 0
    if setting.can_checkpoint():
        row = dataclasses.replace(
            own, activations=setting.activation_bytes(checkpointing=True, released=own.gradient_release)
        )
        advice.append(f"- activation checkpointing (model.gradient_checkpointing: true): {_verdict(row, memory)}")
        fits |= _excess(row, memory) <= 0
    if setting.gpu and not setting.processes.are_sharded and not setting.module.activation_offload:
        row = dataclasses.replace(
            own, activations=setting.activation_bytes(released=own.gradient_release, offload=True)
        )
        advice.append(f"- activations on the host (model.activation_offload: true): {_verdict(row, memory)}")
        fits |= _excess(row, memory) <= 0
    if size := largest_batch(setting, own, memory):
        compensation = "" if setting.releases else ", and trainer.accumulate_grad_batches to compensate"
        advice.append(f"- data.batch_size: {size}{compensation}: fits")
        fits = True
    return advice if fits else [*advice, _all_together(setting, known, memory, trainer)]


def largest_batch(setting: Setting, row: Estimate, memory: int, checkpointing: bool | None = None) -> int:
    """The largest batch size, up to the recipe's own, with which an estimate fits; 0 if a single example does not."""
    room = max(row.activations + row.gathered.total, row.step) - _excess(row, memory)
    if row.step > room:
        return 0
    spare = room - row.gathered.total
    most = int(setting.data.batch_size)
    at_most, at_least = (setting.activation_bytes(size, checkpointing, row.gradient_release) for size in (most, 1))
    if at_most <= spare:
        return most
    if at_least > spare:
        return 0
    # Activations grow almost linearly with the batch: start where the line says, and go down until it fits.
    size = 1 + int((most - 1) * (spare - at_least) / (at_most - at_least))
    while setting.activation_bytes(size, checkpointing, row.gradient_release) > spare:
        size -= 1
    return size


def _settings_for_release(trainer: Mapping[str, Any]) -> list[str]:
    """What the trainer needs for gradient release, where it is set otherwise."""
    clips = bool(trainer.get("gradient_clip_val"))
    accumulates = int(trainer.get("accumulate_grad_batches") or 1) > 1
    return ["trainer.gradient_clip_val: null"] * clips + ["trainer.accumulate_grad_batches: 1"] * accumulates


def _all_together(setting: Setting, rows: Sequence[Estimate], memory: int, trainer: Mapping[str, Any]) -> str:
    """The sentence for where no single change is enough."""
    frugal = min(rows, key=lambda row: row.total or 0)
    checkpointing = True if setting.can_checkpoint() else None
    setting = setting.held_in(getattr(torch, frugal.dtype))
    size = largest_batch(setting, frugal, memory, checkpointing)
    least = setting.activation_bytes(1, checkpointing, frugal.gradient_release)
    changes = [frugal.name, f"{frugal.dtype} parameters"]
    if frugal.gradient_release and not setting.releases:
        needed = ", ".join(_settings_for_release(trainer))
        changes.append(f"gradient release ({needed})" if needed else "gradient release")
    changes += ["activation checkpointing"] if checkpointing else []
    if size:
        return f"- together: {', '.join(changes)} and data.batch_size: {size}: fits"
    row = dataclasses.replace(frugal, activations=least)
    return (
        f"Even {', '.join(changes)} and data.batch_size: 1 exceed the memory by {shown_size(_excess(row, memory))}: "
        "use shorter texts, a smaller model or more memory"
    )


def _excess(row: Estimate, memory: int) -> int:
    assert row.total is not None
    return row.total - memory


def _verdict(row: Estimate, memory: int) -> str:
    excess = _excess(row, memory)
    return f"still exceeds it by {shown_size(excess)}" if excess > 0 else f"fits, {shown_size(-excess)} free"
