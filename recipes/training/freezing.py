"""Parameters that keep their pre-trained values (``model.freeze``): no gradient, no optimizer state."""

from typing import Literal, TypeAlias

from torch import nn

from recipes.messages import RecipeError
from recipes.ranges import PositiveInt
from recipes.training.layers import levels

Frozen: TypeAlias = Literal["embeddings"] | PositiveInt


def freeze(model: nn.Module, frozen: Frozen) -> None:
    """Turns off the gradients of embeddings, and of layers next to them, in place.

    Args:
        model: The model, also on the meta device.
        frozen: ``embeddings``, or the number of layers that are frozen too.

    Raises:
        RecipeError: The model does not have so many layers.
    """
    places, number = levels(model)
    up_to = 0 if frozen == "embeddings" else int(frozen)
    if not number or up_to > number:
        has = f"has {number} layers" if number else "has no list of layers"
        remedy = f"give embeddings or a number up to {number}" if number else "set it to null"
        raise RecipeError(f"model.freeze is {frozen}, but {type(model).__name__} {has}: {remedy}")
    for parameter, place in zip(model.parameters(), places, strict=True):
        if place < up_to:
            parameter.requires_grad_(False)
