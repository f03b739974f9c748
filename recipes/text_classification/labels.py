"""Names for labels: from a column's values, in an order that never changes, or a model's configuration."""

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from recipes.messages import RecipeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,1000}")
MISSING_WORDS = ("nan", "null", "none", "na", "n/a", "<na>")


def label_name(value: Any, class_names: list[str] | None = None) -> str:
    """The name of a label value: text stripped, integers by their digits, missing values empty.

    Args:
        value: A string, an integer, a float that holds one (pandas' representation of columns with missing values), a
            boolean or None.
        class_names: The names of the numbers, if the dataset has them (``ClassLabel``); -1 is then a missing label.

    Raises:
        RecipeError: It is a fraction or not a single value.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and not value.is_integer():
        raise RecipeError(f"data.label: {value} is not a label: a classifier needs names or whole numbers")
    if not isinstance(value, bool | int | float):
        raise RecipeError(
            f"data.label: a value of type {type(value).__name__} is not a label: give names or whole numbers"
        )
    if class_names and value == -1:
        return ""
    if class_names and 0 <= value < len(class_names):
        return class_names[int(value)].strip()
    return str(value if isinstance(value, bool) else int(value))


def ordered(names: set[str]) -> list[str]:
    """Label names in the order of their ids: by value if all are numbers, else alphabetically."""
    if all(WHOLE_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    measurements = [name for name in sorted(names) if _is_number(name) and not float(name).is_integer()]
    if measurements and all(_is_number(name) for name in names):
        raise RecipeError(
            f"data.label: '{measurements[0]}' is not a label: a classifier needs names or whole numbers, "
            "not measurements"
        )
    return sorted(names)


def trained_labels(config: "PretrainedConfig") -> list[str]:
    """The label names that a model was trained with, in the order of its outputs; none for a base model."""
    labels = [name for _, name in sorted((config.id2label or {}).items())]
    return [] if labels == [f"LABEL_{i}" for i in range(len(labels))] else labels


def folded(name: str) -> str:
    """A key that is equal for names that differ only in case, blanks or the format of a number."""
    return repr(float(name) + 0.0) if _is_number(name) else " ".join(name.casefold().split())


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in case, blanks or the format of a number."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(folded(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def doubtful(names: Iterable[str]) -> list[str]:
    """Sentences about labels that may be mistakes: those of :func:`alike`, and words for missing values."""
    names = list(names)
    notes = [
        f"the labels {', '.join(map(repr, group))} differ only in case, blanks or the format of a number, and are "
        f"{len(group)} labels"
        for group in alike(names)
    ]
    missing = [name for name in sorted(names) if name.casefold() in MISSING_WORDS]
    return notes + [f"'{name}' is a label like any other, not a missing one" for name in missing]


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False
