"""Predicts the size of an optimizer's state before its first step, from parameters that may be on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Adam, AdamW, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_adafactor.adafactor import Adafactor
from lightning_adafactor.memory import StateSize, adamw_state, measure_state
from lightning_adafactor.sharded.layout import local
from lightning_adafactor.transformers_dialect import TransformersAdafactor

PROBED_STEPS = 2  # some optimizers complete their state in the second step

# bitsandbytes: 8-bit states from this many elements on, a scale for each block, and a map from codes to values
BITSANDBYTES_LEAST_ELEMENTS = 4096
BITSANDBYTES_BLOCK = 256
BITSANDBYTES_MAP = 256


def predict_state(
    make_optimizer: Callable[[list[dict[str, Any]]], Optimizer], param_groups: Iterable[Mapping[str, Any]]
) -> StateSize:
    """Computes what :func:`~lightning_adafactor.memory.measure_state` would count after the first steps.

    The states of ``torch.optim.Adam`` and ``AdamW`` and of this package's optimizers follow from the shapes alone.
    Any other optimizer takes two steps, with zeros for gradients, on at most two parameters of each kind (group, shape,
    dtype and strides), and the others of that kind are assumed to be alike: on fake tensors without memory, or, where
    its code does not support them, on zeros on the CPU. State that several parameters share, such as bitsandbytes'
    maps, counts once; when bitsandbytes loads a checkpoint onto a GPU, it makes a copy of the maps for each parameter.

    Args:
        make_optimizer: Makes the optimizer from parameter groups, such as ``torch.optim.SGD`` itself.
        param_groups: The groups, ``{"params": [...], **options}``; tensors may be on the meta device. A parameter
            given twice counts once, and one that does not require a gradient not at all.

    Returns:
        The size that the state will have on this process; of a DTensor, that of the local shard's state.

    Raises:
        Exception: Whatever the optimizer raises when it is constructed, or when it takes a step on the CPU.
    """
    groups = _trained(param_groups)
    if not groups:
        return StateSize(0, 0)
    optimizer = make_optimizer([_on_meta(group) for group in groups])
    if type(optimizer) in (Adam, AdamW):
        return _sum(_adam_state(group) for group in optimizer.param_groups)
    if isinstance(optimizer, Adafactor) and type(optimizer) in (Adafactor, TransformersAdafactor):
        return measure_state(
            optimizer._new_state(param, optimizer._rule(group))
            for group in optimizer.param_groups
            for param in group["params"]
        )
    try:
        # takes neither memory nor time, but some optimizers do not support fake tensors
        with FakeTensorMode(), NumbersAreOne():
            return _probe(make_optimizer, groups)
    except Exception:
        return _probe(make_optimizer, groups)


def bitsandbytes_adamw8bit_state(parameters: Iterable[Tensor]) -> StateSize:
    """Computes the size of ``bitsandbytes.optim.AdamW8bit``'s state, with its default arguments, without the library.

    From 4,096 elements on, a parameter has two moments of one byte per element, a float32 scale for each block of 256
    of either, and two maps of 256 float32 that all parameters share; below, two float32 moments. Each has a step.

    Args:
        parameters: The parameters; they may be on the meta device.

    Returns:
        The size of the state; the maps count among each parameter's elements, their bytes once.
    """
    elements = size = 0
    has_maps = False
    for parameter in (each for group in _trained([{"params": parameters}]) for each in group["params"]):
        numel = parameter.numel()
        elements, size = elements + 1, size + 8  # the step, a Python number
        if numel < BITSANDBYTES_LEAST_ELEMENTS:
            elements, size = elements + 2 * numel, size + 2 * 4 * numel
        else:
            scales = -(-numel // BITSANDBYTES_BLOCK)
            elements += 2 * (numel + scales + BITSANDBYTES_MAP)
            size += 2 * (numel + 4 * scales)
            has_maps = True
    return StateSize(elements, size + has_maps * 2 * 4 * BITSANDBYTES_MAP)


def _trained(param_groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The groups with each parameter that requires a gradient once; without empty ones."""
    seen: set[int] = set()
    groups = []
    for group in param_groups:
        given = group["params"]
        params = []
        for each in [given] if isinstance(given, Tensor) else given:
            param = each[1] if isinstance(each, tuple) else each  # named parameters
            if param.requires_grad and id(param) not in seen:
                seen.add(id(param))
                params.append(param)
        groups.append({**group, "params": params})
    return [group for group in groups if group["params"]]


def _on_meta(group: Mapping[str, Any]) -> dict[str, Any]:
    return {**group, "params": [nn.Parameter(param.detach().to("meta")) for param in group["params"]]}


def _adam_state(group: Mapping[str, Any]) -> StateSize:
    size = adamw_state(group["params"])
    if not group["amsgrad"]:
        return size
    shards = [local(param) for param in group["params"]]
    third = sum(shard.numel() for shard in shards)
    return StateSize(size.elements + third, size.bytes + sum(shard.numel() * shard.element_size() for shard in shards))


def _sum(sizes: Iterable[StateSize]) -> StateSize:
    sizes = list(sizes)
    return StateSize(sum(size.elements for size in sizes), sum(size.bytes for size in sizes))


class NumbersAreOne(TorchDispatchMode):
    """Returns 1 where a number is read from a tensor without data, such as a step counter; not where a bool is read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype != torch.bool:
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


def _probe(
    make_optimizer: Callable[[list[dict[str, Any]]], Optimizer], groups: Sequence[Mapping[str, Any]]
) -> StateSize:
    """Steps two parameters of each kind; adds, for each further one, what the second one's state added."""
    counts: dict[tuple[Any, ...], int] = {}
    probes: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    probe_groups: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        probe_groups.append({**group, "params": []})
        for param in map(local, group["params"]):
            kind = (number, param.shape, param.dtype, param.stride())
            counts[kind] = counts.get(kind, 0) + 1
            if counts[kind] <= 2:
                zeros = torch.empty_strided(param.shape, param.stride(), dtype=param.dtype, device="cpu").zero_()
                probes.setdefault(kind, []).append(nn.Parameter(zeros))
                probe_groups[-1]["params"].append(probes[kind][-1])

    optimizer = make_optimizer(probe_groups)
    with torch.compiler.set_stance("force_eager"):  # compiled or not, the state is the same
        for probe in (probe for alike in probes.values() for probe in alike):
            probe.grad = torch.zeros_like(probe)  # one at a time, to save memory
            for _ in range(PROBED_STEPS):
                optimizer.step()
            probe.grad = None

    every = measure_state(optimizer.state.values())
    elements, size = every.elements, every.bytes
    for kind, alike in probes.items():
        if (more := counts[kind] - len(alike)) > 0:
            last = alike[-1]
            rest = measure_state([state for param, state in optimizer.state.items() if param is not last])
            elements += more * (every.elements - rest.elements)
            size += more * (every.bytes - rest.bytes)
    return StateSize(elements, size)
