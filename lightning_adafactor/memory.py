"""The size of an optimizer's state, counted from its tensors.

Two figures, for any ``torch.optim.Optimizer``:

* *elements*, the numbers that the optimizer keeps: every tensor by its (outer) shape, a Python number as one;
* *bytes*, the memory that they take: every storage in full and once, however many views of it there are.

For a DTensor, a process holds its local shard. With ``total=True`` it counts as a whole and once, whatever number of
processes hold parts or replicas of it: the state of one process that holds all parameters. Nothing is communicated.

``MB`` means MiB (2**20 bytes) everywhere.
"""

from __future__ import annotations

import dataclasses
import enum
import numbers
import types
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

_MIB = 2**20
_PYTHON_NUMBER_BYTES = 8  # an int64 or a float64
_ADAMW_STEP_BYTES = 4  # one float32

_SPARSE_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}

_SETTINGS = (types.NoneType, bool, str, bytes, enum.Enum, type, types.ModuleType, types.FunctionType)


@dataclasses.dataclass(frozen=True)
class StateSize:
    """The size of one or several optimizers' state.

    Attributes:
        elements: How many numbers are kept.
        bytes: How many bytes of memory they take.
    """

    elements: int
    bytes: int

    @property
    def megabytes(self) -> float:
        """The bytes in MB (MiB, 2**20 bytes), unrounded."""
        return self.bytes / _MIB


def compute_optimizer_size(states: Iterable[object], *, total: bool = False) -> tuple[float, int]:
    """Computes the size of an optimizer's state: ``compute_optimizer_size(optimizer.state.values())``.

    Args:
        states: The states of the parameters, ``optimizer.state.values()``; see :func:`measure_state`.
        total: Count sharded state on all processes, replicas once; by default, what this process holds.

    Returns:
        ``(total_size_megabytes, total_num_elements)``, MB meaning MiB; both are zero before the first step.
    """
    size = measure_state(states, total=total)
    return size.megabytes, size.elements


@torch.no_grad()  # without it DTensor.to_local() would record a graph
def measure_state(states: Iterable[object], *, total: bool = False) -> StateSize:
    """Counts the elements and the bytes that an optimizer's state holds on this process, or on all processes.

    Every tensor is visited, however deep it lies in mappings, lists, tuples, sets, dataclasses and other
    objects. A DTensor counts as its local shard, or with ``total`` as a whole, replicas once. A tensor subclass
    that wraps others (torchao's 8-bit states) has the elements of its outer shape and the bytes of the tensors
    inside. A sparse tensor counts as its indices and values.

    A storage's bytes count once and in full, even where only a part of it is in use, because all of it stays
    allocated; rounding by the allocator is not counted. Within one parameter's state, elements count once
    too: a tensor and a reshaped view of it are one. A tensor that several parameters share (bitsandbytes'
    quantization maps) counts among each one's elements, as in published tables, but its bytes count once.

    A Python number is one element of 8 bytes. None, booleans, strings, enums, classes and functions are
    settings and do not count.

    Args:
        states: One state per parameter, ``optimizer.state.values()``. A mapping stands for its values.
        total: Count the state of all processes that share these parameters. Tensors that are not DTensors are taken
            to be replicas.

    Returns:
        The size of all states together.
    """
    elements = number_bytes = whole_bytes = 0
    storages: set[torch.UntypedStorage] = set()
    for state in states.values() if isinstance(states, Mapping) else states:
        counted: set[tuple[Any, ...]] = set()
        for leaf in _leaves(state, {}, whole=total):
            if not isinstance(leaf, Tensor):
                elements += 1
                number_bytes += _PYTHON_NUMBER_BYTES
                continue
            if isinstance(leaf, DTensor):
                elements += leaf.numel()
                whole_bytes += _bytes_of_whole(leaf)
                continue
            parts = list(_plain_tensors(leaf))
            place = tuple((part.untyped_storage(), part.storage_offset(), part.numel()) for part in parts)
            storages.update(storage for storage, _, _ in place)
            if place not in counted:
                counted.add(place)
                elements += leaf.numel()
    return StateSize(elements, number_bytes + whole_bytes + sum(storage.nbytes() for storage in storages))


def adamw_state(parameters: Iterable[Tensor], *, total: bool = False) -> StateSize:
    """Computes the size of ``torch.optim.AdamW``'s state for these parameters, after a step of all of them.

    For each parameter that is two moments of its shape and dtype, and a float32 step. A parameter given twice
    counts once, a DTensor as its local shard, and one that does not require a gradient not at all.

    Args:
        parameters: The parameters, ``model.parameters()``; they may be on the meta device.
        total: Count DTensors as a whole, replicas once.

    Returns:
        The size that AdamW's state would have (without ``amsgrad``, which adds a third moment).
    """
    trained = {id(parameter): parameter for parameter in parameters if parameter.requires_grad}.values()
    with torch.no_grad():
        shards = [parameter if total else _local(parameter) for parameter in trained]
    return StateSize(
        elements=sum(2 * shard.numel() + 1 for shard in shards),
        bytes=sum(2 * shard.numel() * shard.element_size() + _ADAMW_STEP_BYTES for shard in shards),
    )


def _leaves(node: object, seen: dict[int, object], *, whole: bool = False) -> Iterator[Tensor | numbers.Number]:
    """Yields the tensors and numbers in ``node``, DTensors as local shards or as a whole.

    ``seen`` keeps visited objects alive, so that no id is reused.
    """
    if isinstance(node, _SETTINGS):
        return
    if isinstance(node, numbers.Number):
        yield node
        return
    if id(node) in seen:
        return
    seen[id(node)] = node
    if isinstance(node, Tensor):
        tensor = node if whole else _local(node)
        if tensor.layout in _SPARSE_PARTS:
            yield from (getattr(tensor, part)() for part in _SPARSE_PARTS[tensor.layout])
        else:
            yield tensor
        return
    for child in _children(node):
        yield from _leaves(child, seen, whole=whole)


def _children(node: Any) -> Iterable[object]:
    """Returns what a container or an object holds."""
    if isinstance(node, Mapping):
        return node.values()
    if isinstance(node, (list, tuple, set, frozenset, deque)):
        return node
    if dataclasses.is_dataclass(node):
        return [getattr(node, field.name, None) for field in dataclasses.fields(node)]
    if hasattr(node, "__array_interface__"):  # numpy, which this library does not need
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a read-only array must not be written to
            return [torch.as_tensor(node)] if node.dtype.kind in "biufc" else []
    return [*getattr(node, "__dict__", {}).values(), *(getattr(node, name, None) for name in _slots(type(node)))]


def _slots(kind: type) -> Iterator[str]:
    """The names in ``__slots__`` of a class and those that it inherits from."""
    for each in kind.__mro__:
        own = vars(each).get("__slots__", ())
        yield from {*([own] if isinstance(own, str) else own)} - {"__dict__", "__weakref__"}


def _local(tensor: Tensor) -> Tensor:
    """Returns this process's shard of a DTensor, and any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _bytes_of_whole(tensor: DTensor) -> int:
    """The bytes that all shards of a DTensor take together, replicas once."""
    local = tensor.to_local()
    if hasattr(local, "__tensor_flatten__") and local.numel() > 0:
        held = sum(part.numel() * part.element_size() for part in _plain_tensors(local))
        return round(held * tensor.numel() / local.numel())
    return tensor.numel() * tensor.element_size()


def _plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yields the tensors that own a tensor's memory: itself, or those inside of a wrapper subclass."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_tensors(getattr(tensor, name))
