"""Names for labels: from a column's values, in an order that never changes, or a model's configuration."""

import math
from typing import TYPE_CHECKING, Any

from recipes.messages import RecipeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def label_name(value: Any, class_names: list[str] | None = None) -> str:
    """The name of a label value: text trimmed, whole numbers by their digits, missing values empty.

    Args:
        value: A text, a whole number, a float that holds one (pandas' way with missing values), a truth value
            or None.
        class_names: The names that the numbers stand for, where the data set has them (``ClassLabel``). A
            number outside them, such as the -1 of unlabelled rows on the hub, stays a number.

    Raises:
        RecipeError: If it is a fraction or not a single value.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and not value.is_integer():
        raise RecipeError(f"data.label: {value} is no label: a classifier needs names or whole numbers")
    if not isinstance(value, bool | int | float):
        raise RecipeError(
            f"data.label: a value of type {type(value).__name__} is no label: give names or whole numbers"
        )
    if class_names and 0 <= value < len(class_names):
        return class_names[int(value)]
    return str(value if isinstance(value, bool) else int(value))


def ordered(names: set[str]) -> list[str]:
    """Label names in the order of their ids: by value where all are numbers, else by alphabet."""
    if all(name.lstrip("-").isdigit() for name in names):
        return sorted(names, key=int)
    if all(_is_number(name) for name in names) and not all(float(name).is_integer() for name in names):
        raise RecipeError(
            f"data.label: '{sorted(names)[0]}' is no label: a classifier needs names or whole numbers, not measurements"
        )
    return sorted(names)


def trained_labels(config: "PretrainedConfig") -> list[str]:
    """The label names that a model was trained with, in the order of its outputs; none for a base model."""
    labels = [name for _, name in sorted((config.id2label or {}).items())]
    return [] if labels == [f"LABEL_{i}" for i in range(len(labels))] else labels


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
