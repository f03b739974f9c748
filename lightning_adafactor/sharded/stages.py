"""What an implementation of the step offers to sharded parameters: its three passes, one by one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Stages(Protocol):
    """The step of some shards, in three stages. Between them the sums of all processes are added up.

    An implementation takes shards that have elements, the two buffers of sums and ``grad_scale``. The buffers are
    filled with zeros, float32 or, if a parameter is, float64. ``sharded.plain`` is the reference.
    """

    def sum_squares(self) -> None:
        """Writes this process's sums of G², its part of ΣR and its Σp² to the first buffer; changes nothing else."""

    def sum_updates(self, found_inf: Tensor | None) -> None:
        """Counts the step, updates R, C or V with the sums of all processes; writes ΣU² to the second buffer.

        Args:
            found_inf: One element on the shards' device; where it is not zero, nothing changes. None for 0.
        """

    def apply_updates(self, found_inf: Tensor | None) -> None:
        """Updates the parameters, and records RMS(p).

        Args:
            found_inf: As of :meth:`sum_updates`.
        """
