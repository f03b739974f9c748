"""The output of ``predict``: texts with labels and the probabilities of all labels, as CSV or JSON lines."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from recipes.messages import RecipeError


class PredictionWriter(BasePredictionWriter):
    """Writes the predictions of all ranks into one file, in the order of the rows.

    A row of a ``.csv`` has the columns of the source, then ``predicted`` (the most probable label),
    ``probability`` (its probability) and ``p(LABEL)`` for each label. A line of a ``.jsonl`` has the same,
    the probabilities in an object ``probabilities``. If the source has a column of one of these names, it is kept,
    and the new one is called ``predicted_2``.

    Args:
        file: The file to write, a .csv or .jsonl, within the run's folder unless absolute. It must not exist.
    """

    def __init__(self, file: str) -> None:
        super().__init__(write_interval="epoch")
        self.file = self.path = Path(file)
        if self.file.suffix not in (".csv", ".jsonl"):
            raise RecipeError(f"model.predictions is '{file}': give a file that ends in .csv or .jsonl")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Determines the path on all ranks before anything is computed.

        Raises:
            RecipeError: The file exists; nothing is overwritten.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        self.path = Path(trainer.log_dir or trainer.default_root_dir) / Path(self.file).expanduser()
        if self.path.exists():
            raise RecipeError(f"model.predictions: '{self.path}' exists already: name another file, or move it away")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        """Gathers the probabilities from all ranks and writes them on rank 0.

        Args:
            trainer: Its data module has ``predict_rows`` and ``labels``.
            pl_module: The module that predicted.
            predictions: Probabilities of shape (batch, labels), batch by batch.
            batch_indices: Indices of the rows, for each dataloader batch by batch; a filler's is the number of rows.
        """
        rows = [row for batch in batch_indices[0] for row in batch]
        probabilities = torch.cat([batch.cpu() for batch in predictions]) if predictions else torch.empty(0)
        parts = _gather((rows, probabilities), trainer)
        if not trainer.is_global_zero:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        order = torch.tensor([row for rows, _ in parts for row in rows])
        together = torch.cat([part for rows, part in parts if rows])
        by_row = together.new_empty(len(data.predict_rows) + 1, *together.shape[1:])
        by_row[order] = together
        written = order[order < len(data.predict_rows)].unique()  # sorted; not all with limit_predict_batches
        by_row = by_row[written]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write(self.path, (data.predict_rows[row] for row in written.tolist()), by_row, data.labels)
        rank_zero_info(f"{len(by_row)} predictions are in {self.path}")


def write(path: Path, rows: Iterable[dict[str, Any]], probabilities: Tensor, labels: list[str]) -> None:
    """Writes predictions to a new .csv or .jsonl file.

    Args:
        path: The file; its suffix decides the format.
        rows: The source's rows, in the order of ``probabilities``.
        probabilities: Of shape (rows, labels).
        labels: The labels' names, in the order of their ids.
    """
    with path.open("x", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            for row, label, values in _predicted(rows, probabilities, labels):
                line = _beside(row, {"predicted": label, "probability": values[label], "probabilities": values})
                file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
            return
        writer: csv.DictWriter | None = None
        for row, label, values in _predicted(rows, probabilities, labels):
            named = {f"p({name})": value for name, value in values.items()}
            line = _beside(row, {"predicted": label, "probability": values[label], **named})
            if writer is None:
                writer = csv.DictWriter(file, fieldnames=list(line))
                writer.writeheader()
            writer.writerow(line)


def _beside(row: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """A row with added values, under names that it does not have yet."""
    line = dict(row)
    for name, value in ours.items():
        number, free = 2, name
        while free in row:
            free, number = f"{name}_{number}", number + 1
        line[free] = value
    return line


def _predicted(
    rows: Iterable[dict[str, Any]], probabilities: Tensor, labels: list[str]
) -> Iterator[tuple[dict[str, Any], str, dict[str, float]]]:
    for row, values in zip(rows, probabilities.tolist(), strict=True):
        named = dict(zip(labels, values, strict=True))
        yield row, max(named, key=named.__getitem__), {name: round(value, 6) for name, value in named.items()}


def _gather(part: Any, trainer: Trainer) -> list[Any]:
    if trainer.world_size == 1:
        return [part]
    parts: list[Any] = [None] * trainer.world_size if trainer.is_global_zero else []
    torch.distributed.gather_object(part, parts if trainer.is_global_zero else None)
    return parts
