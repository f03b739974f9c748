"""Splits validation and test rows off the training rows, independently of the run's seed."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from recipes.messages import RecipeError, tell

if TYPE_CHECKING:
    from datasets import Dataset


UNNEEDED = {"validate": ("test",), "test": ("validation",), "predict": ("test", "validation")}
"""The splits that a command does not need."""


def split_fractions(
    splits: "dict[str, Dataset]",
    sources: Mapping[str, Any],
    split: "Callable[[Dataset, float, str, float], tuple[Dataset, Dataset]]",
    command: str = "fit",
) -> None:
    """Splits ``test`` and ``validation`` off the training rows if their sources are fractions.

    Without training rows, the fraction that a command does not need is left out: ``test`` needs no ``validation``,
    which is a fraction by default.

    Args:
        splits: The splits read so far; fractions are added, and ``train`` keeps the rest.
        sources: The source of each split: a fraction or anything else.
        split: Splits a share of the remaining rows off: ``split(rows, share, key, fraction)``, with the fraction as
            it was given for error messages.
        command: ``fit``, which needs all splits, ``validate``, ``test`` or ``predict``.

    Raises:
        RecipeError: There are no training rows, or a fraction is not between 0 and 1.
    """
    whole = len(splits["train"]) if "train" in splits else 0
    taken = 0.0
    for name in ("test", "validation"):
        fraction = sources[name]
        if not isinstance(fraction, float):
            continue
        key = f"data.{name}"
        if not whole and name in UNNEEDED.get(command, ()):
            continue
        if not whole:
            raise RecipeError(
                f"{key} is {fraction}, a fraction of data.train, which is null: give data.train, or set {key} to a "
                "file or split of its own, or to null if it is not needed"
            )
        share = fraction
        if 0 < fraction < 1:
            # Of a single row, which is a document, a part is split off.
            share = fraction / (1 - taken) if whole == 1 else min(fraction * whole / len(splits["train"]), 1.0)
            taken += fraction
        splits["train"], splits[name] = split(splits["train"], share, key, fraction)


def split_off(
    dataset: "Dataset",
    fraction: float,
    key: str,
    given: float | None = None,
    *,
    seed: int,
    stratify_by: str | None = None,
) -> tuple["Dataset", "Dataset"]:
    """Splits a fraction off a dataset, the same rows for the same seed.

    Args:
        dataset: The rows.
        fraction: The fraction to split off, between 0 and 1; the number of rows is rounded.
        key: The configuration key of the fraction, for error messages.
        given: Its value there, if that is a fraction of more rows than these.
        seed: Seeds the choice of rows.
        stratify_by: A ``ClassLabel`` column whose class proportions are kept. Classes of a single row stay in the
            rest. If fewer rows are split off than there are classes, or the rest would lack one, the rows are chosen
            at random, but for one row of each class. Where that is not possible, a note says how many classes the
            rest lacks.

    Returns:
        The rest, and the rows split off.

    Raises:
        RecipeError: Either would be empty.
    """
    from datasets import concatenate_datasets

    rows = _number_of_rows(dataset, fraction, key, given)
    if stratify_by is None:
        parts = dataset.train_test_split(rows, seed=seed)
        return parts["train"], parts["test"]

    feature = dataset.features[stratify_by]
    labels = dataset[stratify_by][:]
    counts = [0] * feature.num_classes
    for label in labels:
        counts[label] += 1
    classes = sum(count > 1 for count in counts)
    common = dataset.select([i for i, label in enumerate(labels) if counts[label] > 1])
    single = dataset.select([i for i, label in enumerate(labels) if counts[label] == 1])
    if classes <= rows <= len(common) - classes:
        parts = common.train_test_split(rows, seed=seed, stratify_by_column=stratify_by)
        if len({*parts["train"][stratify_by][:]}) == classes:
            return (concatenate_datasets([parts["train"], single]) if len(single) else parts["train"]), parts["test"]
    return _at_random(dataset, labels, rows, key, seed)


def _at_random(dataset: "Dataset", labels: list[int], rows: int, key: str, seed: int) -> tuple["Dataset", "Dataset"]:
    """Splits rows off at random, but for one of each label where enough others are left."""
    import numpy

    order = numpy.random.default_rng(seed).permutation(len(labels)).tolist()
    one_of_each = {labels[row]: row for row in order}
    kept = set(one_of_each.values())
    order = [row for row in order if row not in kept] + list(one_of_each.values())
    off, rest = order[:rows], order[rows:]
    missing = len(set(labels) - {labels[row] for row in rest})
    if missing:
        tell(f"{key}: no row of {missing} of the {len(set(labels))} labels is left to train on")
    return dataset.select(sorted(rest)), dataset.select(off)


def cut_off(dataset: "Dataset", fraction: float, key: str, given: float | None = None) -> tuple["Dataset", "Dataset"]:
    """Cuts a fraction off the end of a dataset whose rows follow each other, such as the lines of a text.

    Args:
        dataset: The rows, whose order is kept.
        fraction: The fraction to cut off, between 0 and 1; the number of rows is rounded.
        key: The configuration key of the fraction, for error messages.
        given: Its value there, if that is a fraction of more rows than these.

    Returns:
        The rows before the cut, and those after it.

    Raises:
        RecipeError: Either would be empty.
    """
    place = len(dataset) - _number_of_rows(dataset, fraction, key, given)
    return dataset.select(range(place)), dataset.select(range(place, len(dataset)))


def _number_of_rows(dataset: "Dataset", fraction: float, key: str, given: float | None) -> int:
    """The rounded number of rows that a fraction is, checked to leave rows on both sides."""
    rows = round(fraction * len(dataset))
    if not 0 < fraction < 1 or not 0 < rows < len(dataset):
        raise RecipeError(
            f"{key} is {fraction if given is None else given}, which splits off {max(rows, 0)} of {len(dataset)} "
            "training rows: give a fraction between 0 and 1 that leaves rows on both sides, or a file or split of "
            "its own"
        )
    return rows
