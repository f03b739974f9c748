"""FSDP2 (``fully_shard``) of a model: its blocks one by one, embeddings and head, then the rest."""

from collections.abc import Iterator

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from recipes.sharding.transformers_internals import block_classes


def shard_blocks(model: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Shards the parameters of a model over the processes of a mesh, in place.

    Each unit gathers its parameters before its forward and backward pass and frees them afterwards: a process holds the
    whole of one block at a time, and of the rest (which includes an embedding whose weights are those of the head).
    torch would keep the rest gathered until a backward pass, which does not come in an evaluation: no checkpoint could
    be loaded after it.

    Args:
        model: The model, on any device.
        mesh: A mesh of one dimension.
        policy: The dtypes that are gathered and reduced.
    """
    for unit in units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def units(model: nn.Module) -> list[nn.Module]:
    """The parts of a model that are gathered one at a time, inner ones first.

    Blocks are the modules that transformers never splits between devices, or, for other models, the entries of the
    outermost ``ModuleList``s. Embeddings and head follow, unless they share their weights.
    """
    names = block_classes(model)
    blocks = [module for module in model.modules() if type(module).__name__ in names and module is not model]
    found = blocks or list(_entries(model))
    ends = [end_of(model, "get_input_embeddings"), end_of(model, "get_output_embeddings")]
    weights = [end.weight for end in ends if end is not None]
    if len({id(weight) for weight in weights}) == len(weights):
        found += [end for end in ends if end is not None and not any(end is part for part in found)]
    return [part for part in reversed(found) if next(part.parameters(), None) is not None]


def _entries(module: nn.Module) -> Iterator[nn.Module]:
    """The entries of the outermost lists of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _entries(child)


def end_of(model: nn.Module, getter: str) -> nn.Module | None:
    """The embeddings or the head of a model; None if it has none with a weight of its own."""
    try:
        end = getattr(model, getter, lambda: None)()
    except NotImplementedError:  # transformers knows no such part of this model
        return None
    return end if isinstance(getattr(end, "weight", None), nn.Parameter) else None
