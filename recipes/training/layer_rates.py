"""Layer-wise learning rates (``model.layer_lr_decay``): lower ones for the layers further below the head.

Layers near the inputs were pre-trained to be general and change least in fine-tuning (ULMFiT, arXiv 1801.06146;
ELECTRA, arXiv 2003.10555). The head has the optimizer's own rate, the layer below it ``decay`` times that, and so on,
the embeddings ``decay ** (layers + 1)`` times.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from recipes.messages import RecipeError
from recipes.training.layers import levels

FACTOR = "lr_factor"
"""The option of a parameter group, until the rates are set, that its rate is multiplied by."""


def split_by_layer(groups: Sequence[Mapping[str, Any]], model: nn.Module, decay: float) -> list[list[dict[str, Any]]]:
    """Splits parameter groups by layer.

    Args:
        groups: Parameter groups of the model.
        model: The model.
        decay: The factor from each layer to the one below it.

    Returns:
        For each layer, from the embeddings to the head, its groups without empty ones. Each has a unique ``name``,
        which Lightning's ``LearningRateMonitor`` shows, and :data:`FACTOR`.

    Raises:
        RecipeError: The model has no layers.
    """
    places, number = levels(model)
    if not number:
        raise RecipeError(
            f"model.layer_lr_decay is {decay}, but {type(model).__name__} has no list of layers: set it to 1"
        )
    level_of = {id(parameter): level for parameter, level in zip(model.parameters(), places, strict=True)}
    split = []
    for level in range(-1, number + 1):
        name = {-1: "embeddings", number: "head"}.get(level, f"layer_{level}")
        parts = [
            {
                **group,
                "params": [each for each in group["params"] if level_of[id(each)] == level],
                "name": f"{name}_undecayed" if "weight_decay" in group else name,
                FACTOR: decay ** (number - level),
            }
            for group in groups
        ]
        split.append([part for part in parts if part["params"]])
    return [parts for parts in split if parts]


def named_apart(groups: list[list[dict[str, Any]]], before: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Gives all groups different names after an optimizer has split those of each layer further.

    Args:
        groups: For each layer the groups as the optimizer's class has split them.
        before: Those of :func:`split_by_layer`.
    """
    named = []
    for number, (parts, whole) in enumerate(zip(groups, before, strict=True)):
        ours = {group["name"] for group in whole}
        seen: dict[str, int] = {}
        for part in parts:
            name = part["name"]
            if name not in ours:  # one that the optimizer reads: it keeps its beginning
                name = f"{name}.{number}"
            seen[name] = seen.get(name, 0) + 1
            named.append({**part, "name": name if seen[name] == 1 else f"{name}.{seen[name]}"})
    return named


def scale_rates(optimizer: Optimizer, decay: float) -> None:
    """Multiplies the learning rate of each group by its factor, in place; before a schedule reads the rates.

    Args:
        optimizer: Made from the groups of :func:`split_by_layer`.
        decay: For error messages.

    Raises:
        RecipeError: The optimizer computes its own rates, or has groups of its own.
    """
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if group.get("lr") is None or group.get("relative_step"):
            given = "lr is null" if group.get("lr") is None else "relative_step is true"
            raise RecipeError(
                f"model.layer_lr_decay is {decay}, but {name} computes its own learning rate ({given}): set "
                "model.layer_lr_decay to 1, or give the optimizer an lr and relative_step: false"
            )
        if FACTOR not in group:
            raise RecipeError(
                f"model.layer_lr_decay is {decay}, but {name} does not keep the options of its parameter groups: set "
                "model.layer_lr_decay to 1, or choose another optimizer"
            )
        group["lr"] = group["lr"] * group.pop(FACTOR)
