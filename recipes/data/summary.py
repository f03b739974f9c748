"""A summary of the data as a small table: rows, labels, dropped rows, duplicates and padding."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def count_duplicates(rows: Iterable[Any], others: Iterable[Any]) -> int:
    """The number of rows that are also among the others; both hashable."""
    known = {hash(row) for row in others}
    return sum(hash(row) in known for row in rows)


def padding_share(lengths: list[int], order: Iterable[int], batch_size: int, padded: Callable[[int], int]) -> float:
    """The fraction of padding in batches that are padded to the length of their longest row or beyond.

    Args:
        lengths: Number of tokens of each row.
        order: Numbers of the rows, batch after batch.
        batch_size: Rows in a batch.
        padded: The length that a batch with this longest row is padded to.
    """
    ordered = [lengths[row] for row in order]
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    places = sum(len(batch) * padded(max(batch)) for batch in batches)
    return round(1 - sum(ordered) / places, 4) if places else 0.0


def print_summary(splits: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints a table with a column for each split and a row for each number.

    Args:
        splits: For each split its numbers by name; those of labels in a mapping ``labels``.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    flat = {split: _flat(numbers) for split, numbers in splits.items()}
    table = Table(title="data")
    table.add_column()
    for split in flat:
        table.add_column(split, justify="right")
    for name in dict.fromkeys(name for numbers in flat.values() for name in numbers):
        table.add_row(escape(name), *(_shown(numbers.get(name)) for numbers in flat.values()))
    Console().print(table)


def _flat(numbers: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name.replace("_", " "): value for name, value in numbers.items() if name != "labels"}
    labels = numbers.get("labels", {})
    most = sorted(labels.items(), key=lambda item: -item[1])[:20] if len(labels) > 20 else labels.items()
    flat |= {f"label {name!r}": count for name, count in most}
    if len(labels) > 20:
        flat["further labels"] = len(labels) - 20
    return flat


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if isinstance(value, float) else f"{value:,}"
