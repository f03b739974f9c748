"""The entries of a step, sorted by the implementation that takes them, and how they are handed over."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_adafactor import compiled as compiled_step
from lightning_adafactor import plain
from lightning_adafactor.entry import Entry
from lightning_adafactor.implementation import Path
from lightning_adafactor.sharded import step as sharded_step

if TYPE_CHECKING:
    from lightning_adafactor.fused.step import FusedAdafactor


@dataclasses.dataclass(slots=True)
class KeptSteps:
    """The steps that keep tables from one call to the next, made when they are first needed.

    Attributes:
        fused: The fused step.
        sharded: The step of parameters that several processes share.
    """

    fused: FusedAdafactor | None = None
    sharded: sharded_step.ShardedAdafactor | None = None

    def forget(self) -> None:
        """Releases the last step's tensors, which are useless after a state is loaded."""
        if self.fused is not None:
            self.fused.forget()
        self.sharded = None


@dataclasses.dataclass(slots=True)
class Work:
    """The entries of a step, by implementation, and the parameters that are DTensors.

    A context manager: at its end, also after an exception, nothing holds the gradients any more, and ``zero_grad``
    frees their memory.
    """

    fused: list[Entry] = dataclasses.field(default_factory=list)
    compiled: list[Entry] = dataclasses.field(default_factory=list)
    plain: list[Entry] = dataclasses.field(default_factory=list)
    sharded: list[sharded_step.ShardedEntry] = dataclasses.field(default_factory=list)
    shared: list[Tensor] = dataclasses.field(default_factory=list)

    def add(self, entry: Entry | sharded_step.ShardedEntry, path: Path, param: Tensor) -> None:
        """Adds a parameter's entry to those of its implementation."""
        if isinstance(entry, sharded_step.ShardedEntry):
            self.sharded.append(entry)
        else:
            getattr(self, path).append(entry)
        if isinstance(param, DTensor):
            self.shared.append(param)

    def execute(self, kept: KeptSteps, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        """Takes the step.

        Args:
            kept: What the last step of the same parameters has kept.
            grad_scale: One element that gradients are divided by before use; None for 1.
            found_inf: One element; where it is not zero, nothing changes. None for 0.
        """
        if self.sharded:
            kept.sharded = kept.sharded or sharded_step.ShardedAdafactor()
            found_inf = kept.sharded(self.sharded, grad_scale=grad_scale, found_inf=found_inf)
        if self.fused:
            if kept.fused is None:
                from lightning_adafactor.fused.step import FusedAdafactor  # needs Triton

                kept.fused = FusedAdafactor()
            kept.fused(self.fused, grad_scale=grad_scale, found_inf=found_inf)
        if self.compiled:
            compiled_step.adafactor(self.compiled, grad_scale=grad_scale, found_inf=found_inf)
        if self.plain:
            plain.adafactor(self.plain, grad_scale=grad_scale, found_inf=found_inf)
        # views share the counter with their parameter, a DTensor's local tensor does not
        if written := [*self.shared, *(entry.param for entry in (*self.fused, *self.compiled))]:
            # autograd then raises an error where it still needs their old values, instead of taking the new ones
            torch.autograd.graph.increment_version(written)

    def __enter__(self) -> Work:
        return self

    def __exit__(self, *_: object) -> None:
        """Drops the gradients of the entries that are kept, by the caches and by the tables."""
        for entry in (*self.fused, *(each.entry for each in self.sharded if each.path == "fused")):
            entry.release_gradient()
