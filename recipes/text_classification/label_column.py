"""The label column of the data: which labels it gives a classifier, and its names for those of a trained model."""

from typing import TYPE_CHECKING

from recipes.messages import RecipeError, tell
from recipes.text_classification.labels import doubtful, folded, label_name, ordered

if TYPE_CHECKING:
    from datasets import Dataset


def class_names(rows: "Dataset", column: str) -> list[str] | None:
    """The names of a column's numbers, if the dataset has them (``ClassLabel``)."""
    return getattr(rows.features[column], "names", None)


def choose_labels(
    train: "Dataset | None", column: str, known: list[str], pretrained: str, max_labels: int | None, fixed: bool
) -> list[str]:
    """The labels in the order of their ids: the model's own if it has all of them, so that its head can be used.

    Args:
        train: The training rows, if there are any.
        column: Their label column.
        known: The labels that the model was trained with; none for a base model.
        pretrained: The model's name.
        max_labels: ``data.max_labels``.
        fixed: Whether the labels of a trained model must stay.

    Raises:
        RecipeError: There are no labels, fewer than two, more than ``max_labels``, or others than the model's.
    """
    if train is None:
        if not known:
            raise RecipeError(
                f"data.train is null and '{pretrained}' (model.pretrained) knows no labels (names like LABEL_0 are "
                "taken for placeholders): give data.train, or the folder model/ of a run"
            )
        return known
    found = _names(train, column) - {""}
    if found and {folded(name) for name in found} <= {folded(name) for name in known}:
        return known
    if len(found) < 2:
        raise RecipeError(
            f"data.label: column '{column}' of data.train holds {len(found)} different labels: "
            "a classifier needs two or more"
        )
    if len(found) > (max_labels or max(100, len(train) // 2)):
        raise RecipeError(
            f"data.label: column '{column}' holds {len(found)} different values in {len(train)} rows "
            f"of data.train: name the column of the labels, or set data.max_labels to {len(found)} if these are "
            "labels"
        )
    if known and fixed:
        raise RecipeError(
            f"model.pretrained: '{pretrained}' was trained on the labels {_listed(known)}, and data.train has "
            f"{_listed(ordered(found))}: give data with its labels, or the --ckpt_path of a run with these"
        )
    for note in doubtful(found):
        tell(f"data.label: {note}")
    return ordered(found)


def match_labels(split: str, rows: "Dataset", column: str, labels: list[str], trained: str | None) -> dict[str, str]:
    """The label for each name that differs from it only in case, blanks or the format of a number.

    Args:
        split: The rows' split.
        rows: The rows.
        column: Their label column.
        labels: The labels of the classifier.
        trained: The name of the model that was trained with these labels; None if they are those of ``data.train``,
            whose names must be the same in every split.

    Raises:
        RecipeError: The rows have labels that the classifier has not.
    """
    names = _names(rows, column) - {"", *labels}
    aliases = _aliases(names, labels, trained) if trained is not None else {}
    unknown = ordered(names - aliases.keys())
    if unknown:
        known_to = "data.train" if trained is None else f"the model '{trained}'"
        raise RecipeError(
            f"data.{split} has labels that {known_to} does not have: {', '.join(map(repr, unknown[:5]))}"
            + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
            + "".join(
                f"; '{name}' is there as '{label}'"
                for name in unknown[:5]
                for label in labels
                if folded(name) == folded(label)
            )
            + ("; -1 marks rows without a label on the hub" if "-1" in unknown else "")
            + f": correct column '{column}' or choose another split"
        )
    return aliases


def _aliases(names: set[str], labels: list[str], trained: str) -> dict[str, str]:
    by_fold: dict[str, list[str]] = {}
    for label in labels:
        by_fold.setdefault(folded(label), []).append(label)
    found = {name: by_fold.get(folded(name), []) for name in sorted(names)}
    aliases = {name: alike[0] for name, alike in found.items() if len(alike) == 1}
    for name, label in aliases.items():
        tell(f"data.label: '{name}' is read as '{label}', as '{trained}' calls it")
    return aliases


def _names(rows: "Dataset", column: str) -> set[str]:
    names = class_names(rows, column)
    try:
        return {label_name(value, names) for value in rows.unique(column)}
    except (TypeError, NotImplementedError) as error:  # lists and structs have no unique values
        raise RecipeError(
            f"data.label: column '{column}' holds {rows.features[column]}: give names or whole numbers"
        ) from error


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
