"""The data of text classification: one or two text columns and a label column, tokenised and batched."""

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader, DistributedSampler

from recipes.data.caching import Cached
from recipes.data.loader import ResumableLoader
from recipes.data.sources import load_split
from recipes.data.splitting import split_off
from recipes.messages import RecipeError
from recipes.models.pretrained import load_config, load_tokenizer
from recipes.text_classification.encoding import complete, encode
from recipes.text_classification.labels import label_name, ordered, trained_labels
from recipes.text_classification.sampler import LengthGroupedSampler

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class TextClassificationData(LightningDataModule):
    """Texts and their labels from files or the Hugging Face hub.

    A split is named by its file or files (csv, tsv, Orange .tab, json, jsonl, parquet, compressed or not;
    glob patterns and lists too) or, where ``path`` is given, by a split of that dataset. ``validation`` and
    ``test`` may also be a fraction to carve out of the training rows. Rows with an empty text or label are
    dropped and counted.

    Args:
        text: The column that holds the text, or a list of two columns for tasks on pairs of texts.
        label: The column that holds the label: names, or whole numbers.
        train: Training file or files, or a split of ``path``. Not needed to test or predict with a model that
            knows its labels.
        validation: Validation file or files, or a split of ``path``, or a fraction to carve out of the
            training rows, label by label in proportion. What is tuned is tuned on it.
        test: Test file or files, or a split of ``path``, or a fraction to carve out of the training rows. The
            best checkpoint is tested on it once. Null: no test.
        predict: File or files, or a split of ``path``, to label with ``predict``. They need no label column.
        path: Name of a dataset on the hub, or its folder. Null: all splits are files.
        name: Configuration of the dataset at ``path``, such as ``mrpc`` of ``nyu-mll/glue``.
        load_args: More arguments for ``datasets.load_dataset``, such as ``{sep: ";"}`` or ``{revision:
            main}``.
        tokenizer: Hub name or folder of the tokenizer. Null: the model's own.
        max_length: Texts are cut after so many tokens. Time and activation memory grow with it.
        batch_size: Training examples in a batch, on each device.
        eval_batch_size: Examples in a batch when validating, testing and predicting.
        group_by_length: Whether training batches hold texts of similar length, for less padding.
        pad_to_multiple_of: Batches are padded to the longest text, rounded up to a multiple of this.
        split_seed: Seeds the carving of splits. Their rows stay the same whatever the run's seed.
        num_workers: Processes that prepare batches. Texts are tokenised beforehand, so 0 is fast.
    """

    def __init__(
        self,
        text: str | list[str],
        label: str,
        train: str | list[str] | None = None,
        validation: float | str | list[str] = 0.1,
        test: float | str | list[str] | None = None,
        predict: str | list[str] | None = None,
        path: str | None = None,
        name: str | None = None,
        load_args: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        max_length: int = 128,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        group_by_length: bool = True,
        pad_to_multiple_of: int | None = 8,
        split_seed: int = 42,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.text = [text] if isinstance(text, str) else list(text)
        self.label = label
        self.sources = {"train": train, "validation": validation, "test": test, "predict": predict}
        self.path = path
        self.name = name
        self.load_args = load_args
        self.tokenizer_name = tokenizer
        self.max_length = max_length
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.group_by_length = group_by_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.split_seed = split_seed
        self.num_workers = num_workers
        self._check_arguments()
        self.labels: list[str] = []
        self.tokenizer: PreTrainedTokenizerBase
        self.predict_rows: Dataset
        self._encoded: dict[str, Dataset] = {}
        self._train_loader: ResumableLoader | None = None
        self._place: dict[str, int] | None = None

    def _check_arguments(self) -> None:
        if not 1 <= len(self.text) <= 2:
            raise RecipeError(f"data.text names {len(self.text)} columns: give one or two")
        if len({*self.text, self.label}) < len(self.text) + 1:
            raise RecipeError(
                f"data.text ({', '.join(self.text)}) and data.label ({self.label}) name the same column: "
                "each needs a column of its own"
            )
        least_values = {
            "max_length": 3,
            "batch_size": 1,
            "eval_batch_size": 1,
            "pad_to_multiple_of": 1,
            "num_workers": 0,
        }
        for key, least in least_values.items():
            value = getattr(self, key)
            if value is not None and value < least:
                raise RecipeError(f"data.{key} is {value}: give {least} or more")

    @property
    def has_test(self) -> bool:
        """Whether there is a split to test the best checkpoint on."""
        return self.sources["test"] is not None

    def prepare_data(self) -> None:
        """Loads, checks and tokenises all splits on rank 0 alone; the other ranks find them in the cache."""
        self._load()

    def setup(self, stage: str) -> None:
        """Makes the splits that ``stage`` (fit, validate, test or predict) needs ready to be batched."""
        self._load()

    def _load(self) -> None:
        assert self.trainer is not None
        pretrained = str(self.trainer.lightning_module.pretrained)
        if not self.labels:
            self._load_tokenizer(pretrained)
        fn = self.trainer.state.fn
        if fn == "predict":
            if "predict" not in self._encoded:
                self._load_predict(pretrained)
        elif not self._encoded.keys() - {"predict"}:
            self._load_labelled(pretrained, fitting=fn == "fit")

    def find_labels(self, pretrained: str) -> None:
        """Finds tokenizer and labels as training does, and reads no more of the data than it takes.

        Args:
            pretrained: Hub name or folder of the model.
        """
        self._load_tokenizer(pretrained)
        train = self.sources["train"]
        rows = self._read("train", train) if isinstance(train, str | list) else None
        self.labels = self._choose_labels(rows, pretrained)

    def largest_batch(self) -> dict[str, torch.Tensor]:
        """A training batch of the largest shape there can be, its numbers without meaning; after ``find_labels``."""
        multiple = self.pad_to_multiple_of or 1
        tokens = -(-self.max_length // multiple) * multiple
        batch = {
            name: torch.ones(self.batch_size, tokens, dtype=torch.long) for name in self.tokenizer.model_input_names
        }
        return {**batch, "labels": torch.zeros(self.batch_size, dtype=torch.long)}

    def _load_tokenizer(self, pretrained: str) -> None:
        key = "data.tokenizer" if self.tokenizer_name else "model.pretrained"
        self.tokenizer = load_tokenizer(self.tokenizer_name or pretrained, key)
        self.tokenizer.model_max_length = self.max_length

    def _load_labelled(self, pretrained: str, fitting: bool) -> None:
        if fitting and self.sources["train"] is None:
            raise RecipeError(
                "data.train is null, so there is nothing to train on: give a file or a split of data.path"
            )
        rows = {
            split: self._read(split, source)
            for split, source in self.sources.items()
            if split != "predict" and isinstance(source, str | list)
        }
        self.labels = self._choose_labels(rows.get("train"), pretrained)
        encoded = {split: self._encode(split, dataset) for split, dataset in rows.items()}
        whole = len(encoded["train"]) if "train" in encoded else 0
        for split in ("test", "validation"):
            source = self.sources[split]
            if isinstance(source, float):
                if not whole:
                    raise RecipeError(
                        f"data.{split} is {source}, a fraction of data.train, which is null: give data.train"
                    )
                share = min(source * whole / len(encoded["train"]), 1.0) if 0 < source < 1 else source
                encoded["train"], encoded[split] = split_off(
                    encoded["train"], share, key=f"data.{split}", seed=self.split_seed, stratify_by="labels"
                )
        self._encoded |= {
            # Neither the loss nor a metric depends on the order of evaluation, and sorted texts need less
            # padding.
            split: dataset if split == "train" else _longest_first(dataset)
            for split, dataset in encoded.items()
        }

    def _load_predict(self, pretrained: str) -> None:
        source = self.sources["predict"]
        if not isinstance(source, str | list):
            raise RecipeError(
                "data.predict is null, so there is nothing to predict: give a file or a split of data.path"
            )
        if not self.labels:
            self.labels = trained_labels(load_config(pretrained, "model.pretrained"))
        if not self.labels:
            train = self.sources["train"]
            if not isinstance(train, str | list):
                raise RecipeError(
                    f"model.pretrained: '{pretrained}' knows no labels and data.train is null: give the "
                    "folder model/ of a run, or the data.train that the checkpoint was trained on"
                )
            self.labels = self._choose_labels(self._read("train", train), pretrained)
        self.predict_rows = self._read("predict", source)
        self._encoded["predict"] = self._encode("predict", self.predict_rows)

    def _read(self, split: str, source: str | list[str]) -> "Dataset":
        key = f"data.{split}"
        dataset = load_split(source, key=key, path=self.path, name=self.name, load_args=self.load_args)
        columns = dict.fromkeys(self.text, "data.text")
        if split != "predict":
            columns[self.label] = "data.label"
        for column, argument in columns.items():
            if column not in dataset.column_names:
                near = get_close_matches(column, dataset.column_names, 1)
                raise RecipeError(
                    f"{argument} is '{column}', but {key} has no such column: it has "
                    f"{', '.join(dataset.column_names)}" + (f"; did you mean '{near[0]}'?" if near else "")
                )
        for column in self.text:
            _check_text(dataset, column, key)
        return dataset

    def _choose_labels(self, train: "Dataset | None", pretrained: str) -> list[str]:
        """The labels in the order of their ids: a model's own if it knows them all, so that its head fits."""
        known = trained_labels(load_config(pretrained, "model.pretrained"))
        if train is None:
            if not known:
                raise RecipeError(
                    f"data.train is null and '{pretrained}' (model.pretrained) knows no labels: give "
                    "data.train, or the folder model/ of a run"
                )
            return known
        found = self._names(train) - {""}
        if found and found <= set(known):
            return known
        if len(found) < 2:
            raise RecipeError(
                f"data.label: column '{self.label}' of data.train holds {len(found)} different labels: "
                "a classifier needs two or more"
            )
        if len(found) > max(100, len(train) // 2):
            raise RecipeError(
                f"data.label: column '{self.label}' holds {len(found)} different values in {len(train)} rows "
                "of data.train: name the column of the labels"
            )
        return ordered(found)

    def _names(self, dataset: "Dataset") -> set[str]:
        class_names = getattr(dataset.features[self.label], "names", None)
        try:
            return {label_name(value, class_names) for value in dataset.unique(self.label)}
        except (TypeError, NotImplementedError) as error:  # lists and structs have no unique values
            raise RecipeError(
                f"data.label: column '{self.label}' holds {dataset.features[self.label]}: give names or whole numbers"
            ) from error

    def _encode(self, split: str, dataset: "Dataset") -> "Dataset":
        """Token ids, label ids and lengths, from the cache if the same was tokenised before."""
        from datasets import ClassLabel

        labelled = split != "predict"
        class_names = None
        if labelled:
            class_names = getattr(dataset.features[self.label], "names", None)
            unknown = ordered(self._names(dataset) - {"", *self.labels})
            if unknown:
                raise RecipeError(
                    f"data.{split} has labels that data.train has not: {', '.join(map(repr, unknown[:5]))}"
                    + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
                    + ("; -1 marks rows without a label on the hub" if "-1" in unknown else "")
                    + f": correct column '{self.label}' or choose another split"
                )
        rows = dataset
        if labelled:
            rows = dataset.filter(Cached(complete), batched=True, fn_kwargs={"columns": [*self.text, self.label]})
            if dropped := len(dataset) - len(rows):
                rank_zero_info(f"data.{split}: dropped {dropped} of {len(dataset)} rows, without a text or a label.")
            if len(rows) == 0:
                raise RecipeError(f"data.{split} has {len(dataset)} rows, but none with both a text and a label")
        encoded = rows.map(
            Cached(encode),
            batched=True,
            remove_columns=dataset.column_names,
            desc=f"Tokenising {split}",
            fn_kwargs={
                "tokenizer": self.tokenizer,
                "text": self.text,
                "label": self.label if labelled else None,
                "labels": self.labels,
                "class_names": class_names,
                "max_length": self.max_length,
            },
        )
        return encoded.cast_column("labels", ClassLabel(names=self.labels)) if labelled else encoded

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches, of similar lengths if asked for; an order of its own for each seed and epoch."""
        assert self.trainer is not None
        dataset = self._encoded["train"]
        # Lightning would wrap any other sampler in a shuffle of its own, which tears grouped batches apart.
        # These two do its sharding themselves, and shuffle by (seed, epoch), so a resumed run sees the same
        # batches.
        shard: dict[str, Any] = {
            "num_replicas": self.trainer.world_size,
            "rank": self.trainer.global_rank,
            "seed": int(os.environ.get("PL_GLOBAL_SEED", "0")),
        }
        sampler: DistributedSampler
        if self.group_by_length:
            sampler = LengthGroupedSampler(dataset["length"][:], self.batch_size, **shard)
        else:
            sampler = DistributedSampler(dataset, shuffle=True, **shard)
        loader = self._loader("train", self.batch_size, sampler)
        assert isinstance(loader, ResumableLoader)
        loader.resume(self._place)
        self._train_loader = loader
        return loader

    def state_dict(self) -> dict[str, Any]:
        """The place in the training split, for a run that goes on from here."""
        return {} if self._train_loader is None else {"place": self._train_loader.place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the place in the training split."""
        self._place = state_dict.get("place")

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, longest texts first."""
        return self._loader("validation", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, longest texts first."""
        if "test" not in self._encoded:
            raise RecipeError("data.test is null, so there is nothing to test on: give a file, a split or a fraction")
        return self._loader("test", self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader:
        """Batches of the rows to predict, in their order."""
        return self._loader("predict", self.eval_batch_size)

    def _loader(self, split: str, batch_size: int, sampler: DistributedSampler | None = None) -> DataLoader:
        from transformers import DataCollatorWithPadding

        return (DataLoader if sampler is None else ResumableLoader)(
            dataset=self._encoded[split].remove_columns("length"),
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=DataCollatorWithPadding(self.tokenizer, pad_to_multiple_of=self.pad_to_multiple_of),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


def _longest_first(dataset: "Dataset") -> "Dataset":
    return dataset.select(torch.tensor(dataset["length"][:]).argsort(descending=True, stable=True).tolist())


def _check_text(dataset: "Dataset", column: str, key: str) -> None:
    feature = dataset.features[column]
    if getattr(feature, "dtype", None) not in ("string", "large_string"):
        raise RecipeError(f"data.text: column '{column}' of {key} holds {feature}, not text: name a column of texts")
    # Columns of delimited files are always read as text, so a column of numbers shows only in its values.
    sample = [value for value in dataset[column][:1000] if value]
    if sample and all(value.replace(".", "", 1).lstrip("+-").isdigit() for value in sample):
        raise RecipeError(f"data.text: column '{column}' of {key} holds numbers, not text: name a column of texts")
