"""Splitting validation and test rows off the training rows, the same ones whatever the run's seed."""

from typing import TYPE_CHECKING

from recipes.messages import RecipeError

if TYPE_CHECKING:
    from datasets import Dataset


def split_off(
    dataset: "Dataset", fraction: float, *, key: str, seed: int, stratify_by: str | None = None
) -> tuple["Dataset", "Dataset"]:
    """Splits a share off a dataset, the same rows for the same seed.

    Args:
        dataset: The rows to share out.
        fraction: The share to split off, between 0 and 1; that many rows, rounded.
        key: The configuration key that the fraction stands under, for error messages.
        seed: Seeds the choice of rows.
        stratify_by: A ``ClassLabel`` column whose classes keep their shares. Classes of a single row stay in
            the rest; where the share has fewer rows than there are classes the choice is plainly random.

    Returns:
        The rest and the share.

    Raises:
        RecipeError: If either would be empty.
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
