"""Parameters with several names, such as those of a head that shares the weights of the embeddings."""

from collections.abc import Mapping

import torch
from torch import nn


def shared_names(model: nn.Module) -> dict[str, str]:
    """For each further name of a parameter that has several, its first name."""
    first: dict[int, str] = {}
    named = model.named_parameters(remove_duplicate=False)
    return {name: known for name, parameter in named if (known := first.setdefault(id(parameter), name)) != name}


def share(model: nn.Module, names: Mapping[str, str]) -> None:
    """Makes each name of :func:`shared_names` that of one parameter again, where each has got its own."""
    for name, first in names.items():
        module, _, parameter = name.rpartition(".")
        setattr(model.get_submodule(module), parameter, model.get_parameter(first))


def unshare(model: nn.Module, keep: Mapping[str, str]) -> None:
    """Gives each further name of a parameter one of its own, without values, but for some names.

    transformers ties the weights of a model without weights as its configuration says, and leaves those of a file that
    has different values for them.

    Args:
        model: The model, on the meta device.
        keep: The :func:`shared_names` that stay.
    """
    for name in shared_names(model).keys() - keep.keys():
        module, _, parameter = name.rpartition(".")
        known = model.get_parameter(name)
        own = nn.Parameter(torch.empty_like(known), requires_grad=known.requires_grad)
        setattr(model.get_submodule(module), parameter, own)
