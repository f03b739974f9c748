"""State tensors of sharded parameters: DTensors whose placements follow the parameter's.

R of a matrix lies where its rows lie, C where its columns lie, and either is replicated along mesh dimensions that
shard the other dimension. So ``torch.distributed.checkpoint`` saves each number once, and reshards the state on load.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.placement_types import Placement

from lightning_adafactor.rule import state_dtype
from lightning_adafactor.sharded.layout import is_shard, local, region_of

NAMES = ("row_var", "col_var", "variance", "exp_avg")
"""The state tensors that are sharded as the parameter is."""

_REDUCED_DIM = {"row_var": -1, "col_var": -2}
"""The dimension of the parameter that a state tensor has reduced to size 1."""


def new_state(param: DTensor, *, has_average: bool) -> dict[str, Tensor]:
    """The state tensors before the first step, all but ``step``: zeros.

    Args:
        param: The parameter.
        has_average: Whether there is an average of updates (``beta1``).

    Returns:
        ``row_var`` and ``col_var``, or ``variance``, and perhaps ``exp_avg``, in the dtype of the arithmetic.
    """
    names = ["row_var", "col_var"] if param.dim() > 1 else ["variance"]
    if has_average:
        names.append("exp_avg")
    return {name: zeros(param, name) for name in names}


@torch.no_grad()
def zeros(param: DTensor, name: str) -> DTensor:
    """A state tensor of zeros."""
    shard = local(param)
    if name in _REDUCED_DIM:
        shape = _reduced(shard.shape, _REDUCED_DIM[name])
        return _wrap(param, name, torch.zeros(shape, dtype=state_dtype(param), device=shard.device))
    return _wrap(param, name, torch.zeros_like(shard, dtype=state_dtype(param), memory_format=torch.preserve_format))


@torch.no_grad()
def adopt(param: DTensor, name: str, saved: Tensor) -> DTensor:
    """A copy of a saved state tensor, sharded as the parameter's state is.

    Args:
        param: The parameter.
        name: ``row_var``, ``col_var``, ``variance`` or ``exp_avg``.
        saved: The whole tensor, the same on every process, or a DTensor on any mesh. Any dtype and device.

    Raises:
        ValueError: It has another shape than the parameter's state.
    """
    own = zeros(param, name)
    if saved.shape != own.shape:
        raise ValueError(
            f"The saved {name} of a parameter of shape {tuple(param.shape)} should have shape {tuple(own.shape)}, "
            f"but has {tuple(saved.shape)}"
        )
    if isinstance(saved, DTensor):
        if saved.device_mesh == own.device_mesh and saved.placements == own.placements:
            local(own).copy_(local(saved))
            return own
        saved = saved.full_tensor()
    region = region_of(own)
    for dim, (start, size) in enumerate(zip(region.starts, own.to_local().shape, strict=True)):
        saved = saved.narrow(dim, min(start, saved.size(dim)), size)
    local(own).copy_(saved)
    return own


def _wrap(param: DTensor, name: str, shard: Tensor) -> DTensor:
    placements: list[Placement] = list(param.placements)
    shape, stride = tuple(param.shape), tuple(param.stride())
    if name in _REDUCED_DIM:
        dim = param.dim() + _REDUCED_DIM[name]
        placements = [Replicate() if is_shard(each) and each.dim == dim else each for each in placements]
        shape = _reduced(shape, _REDUCED_DIM[name])
        stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        shard, param.device_mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def _reduced(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    reduced = list(shape)
    reduced[dim] = 1
    return tuple(reduced)
