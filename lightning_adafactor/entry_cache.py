"""The entries of the last step, kept so that a step with the same tensors need not collect them again.

Collecting takes a few microseconds a parameter, which for a hundred parameters is as long as the step itself takes on
a GPU. To see that nothing but the gradient's address has changed takes a fraction of that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_adafactor.entry import Entry
from lightning_adafactor.rule import Rule


@dataclasses.dataclass(slots=True)
class _Kept:
    """An entry and all that it was made of, except for the gradient's address and the rule."""

    entry: Entry
    group: int
    param: Tensor
    address: int
    grad_kind: type
    grad_elements: int
    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    grad_device: torch.device
    grad_dtype: torch.dtype
    grad_strides: tuple[int, ...]
    state: dict[str, Any]
    tensors: tuple[Tensor | None, ...]
    addresses: list[int]  # of the tensors: ``tensor.data = other`` keeps the tensor and changes its memory
    read_addresses: list[Callable[[], int]]


_TENSORS = ("step", "row_var", "col_var", "variance", "exp_avg", "RMS")


class EntryCache:
    """Entries by the parameter's position in the optimizer.

    It belongs to the process: neither ``state_dict`` nor copies of an optimizer contain it.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}

    def find(
        self, index: int, group: int, param: Tensor, grad: Tensor, state: dict[str, Any], rule: Rule
    ) -> Entry | None:
        """Returns the entry of the last step with this step's gradient and rule, or None where a new one is needed.

        Args:
            index: Position of the parameter in the optimizer.
            group: Number of its parameter group.
            param: The parameter, as the optimizer holds it.
            grad: Its gradient, a strided tensor.
            state: Its state.
            rule: Its group's options.
        """
        kept = self._kept.get(index)
        if (
            kept is None
            or kept.param is not param
            or kept.group != group
            or kept.address != param.data_ptr()
            or kept.strides != param.stride()
            or kept.shape != param.shape
            or kept.dtype is not param.dtype
            or kept.grad_elements != grad.numel()
            or kept.grad_kind is not type(grad)
            or kept.grad_device != grad.device
            or kept.grad_dtype is not grad.dtype
            or kept.grad_strides != grad.stride()
            or grad.is_neg()
            or kept.state is not state
            or (rule.beta1 is not None and kept.entry.exp_avg is None)
        ):
            return None
        step, row_var, col_var, variance, exp_avg, rms = kept.tensors
        get = state.get
        if (
            get("step") is not step
            or get("row_var") is not row_var
            or get("col_var") is not col_var
            or get("variance") is not variance
            or get("exp_avg") is not exp_avg
            or get("RMS") is not rms
            or kept.addresses != [read() for read in kept.read_addresses]
        ):
            return None
        entry = kept.entry
        entry.grad = grad.mT if entry.transposed else grad
        entry.rule = rule
        return entry

    def keep(self, entry: Entry, group: int, param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
        """Keeps a new entry; arguments as of :meth:`find`."""
        tensors = tuple(state.get(name) for name in _TENSORS)
        # not of DTensors: to ask one for its shard takes as long as all other comparisons together
        addresses = [tensor.data_ptr for tensor in tensors if type(tensor) is Tensor]
        self._kept[entry.index] = _Kept(
            entry,
            group,
            param,
            param.data_ptr(),
            type(grad),
            grad.numel(),
            param.shape,
            param.stride(),
            param.dtype,
            grad.device,
            grad.dtype,
            grad.stride(),
            state,
            tensors,
            [read() for read in addresses],
            addresses,
        )
