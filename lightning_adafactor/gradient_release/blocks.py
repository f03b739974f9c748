"""The blocks of a model whose gradients are released together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal, get_args

from torch import nn

By = Literal["block", "parameter"]
"""``block``: a transformer block, or another module, at a time. ``parameter``: each parameter alone."""


@dataclasses.dataclass(frozen=True, eq=False)  # compared by identity
class Block:
    """Parameters that are stepped together.

    Attributes:
        name: The name of their module, or of the parameter.
        params: The parameters, in the order of the model.
    """

    name: str
    params: tuple[nn.Parameter, ...]


def find_blocks(model: nn.Module, by: By = "block") -> list[Block]:
    """Splits the trainable parameters of a model into blocks.

    A block is a child of an outermost ``nn.ModuleList``, such as a layer of a transformer, or of an ``nn.Sequential``
    without such lists. What is left (embeddings, norms, the head) is split by the module that holds it. A parameter
    that belongs to several blocks is a block of its own.

    Args:
        model: The model, on any device, also on the meta device.
        by: "block", or "parameter" for a block for each parameter.

    Returns:
        The blocks, in the order of the model; each trainable parameter is in one of them.

    Raises:
        ValueError: ``by`` is something else.
    """
    if by not in get_args(By):
        raise ValueError(f"by should be 'block' or 'parameter' but is: {by!r}")
    if by == "parameter":
        return [Block(name, (param,)) for name, param in model.named_parameters() if param.requires_grad]
    names: dict[nn.Parameter, str] = {}
    units: dict[nn.Parameter, list[str]] = {}
    for unit, module, whole in _units(model, ""):
        for name, param in module.named_parameters(unit, recurse=whole):
            if param.requires_grad:
                names.setdefault(param, name)
                units.setdefault(param, []).append(unit)
    blocks: dict[str, list[nn.Parameter]] = {}
    for param, own in units.items():
        blocks.setdefault(own[0] if len(own) == 1 else names[param], []).append(param)
    return [Block(name, tuple(params)) for name, params in blocks.items()]


def _units(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module, bool]]:
    """Names and modules whose parameters form a block: all of them, or only the module's own."""
    for child_name, child in module.named_children():
        full_name = f"{name}.{child_name}" if name else child_name
        if _is_list(module) and not (_is_list(child) and type(child) is type(module)):
            yield full_name, child, True
        else:
            yield from _units(child, full_name)
    yield name, module, False


def _is_list(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return not any(isinstance(inner, nn.ModuleList) for inner in module.modules())
    return isinstance(module, nn.ModuleList)
