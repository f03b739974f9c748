"""Splits validation and test rows off the training rows, independently of the run's seed."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from recipes.messages import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset


def split_fractions(
    splits: "dict[str, Dataset]",
    sources: Mapping[str, Any],
    split: "Callable[[Dataset, float, str], tuple[Dataset, Dataset]]",
) -> None:
    """Splits ``test`` and ``validation`` off the training rows if their sources are fractions.

    Args:
        splits: The splits read so far; fractions are added, and ``train`` keeps the rest.
        sources: The source of each split: a fraction or anything else.
        split: Splits a fraction (of the remaining rows) off rows: ``split(rows, fraction, key)``.

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
        if not whole:
            raise RecipeError(f"{key} is {fraction}, a fraction of data.train, which is null: give data.train")
        share = fraction
        if 0 < fraction < 1:
            # Of a single row, which is a document, a part is split off.
            share = fraction / (1 - taken) if whole == 1 else min(fraction * whole / len(splits["train"]), 1.0)
            taken += fraction
        splits["train"], splits[name] = split(splits["train"], share, key)


def split_off(
    dataset: "Dataset", fraction: float, key: str, *, seed: int, stratify_by: str | None = None
) -> tuple["Dataset", "Dataset"]:
    """Splits a fraction off a dataset, the same rows for the same seed.

    Args:
        dataset: The rows.
        fraction: The fraction to split off, between 0 and 1; the number of rows is rounded.
        key: The configuration key of the fraction, for error messages.
        seed: Seeds the choice of rows.
        stratify_by: A ``ClassLabel`` column whose class proportions are kept. Classes of a single row stay in the
            rest; if fewer rows are split off than there are classes, they are chosen at random.

    Returns:
        The rest, and the rows split off.

    Raises:
        RecipeError: Either would be empty.
    """
    from datasets import concatenate_datasets

    rows = round(fraction * len(dataset))
    if not 0 < fraction < 1 or not 0 < rows < len(dataset):
        raise RecipeError(
            f"{key} is {fraction}, which splits off {max(rows, 0)} of {len(dataset)} training rows: "
            "give a fraction between 0 and 1 that leaves rows on both sides, or a file or split of its own"
        )
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
        return (concatenate_datasets([parts["train"], single]) if len(single) else parts["train"]), parts["test"]
    parts = dataset.train_test_split(rows, seed=seed)
    return parts["train"], parts["test"]
