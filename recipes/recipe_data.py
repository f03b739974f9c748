"""The data of a task: a :class:`RecipeData`, which its :class:`~recipes.recipe.Recipe` trains on.

The recipe tells its data once which model to tokenize for (:meth:`RecipeData.tokenize_for`), and from then on reads
labels and tokenizer from it. The data never asks the recipe.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from recipes.data.loader import ResumableLoader
from recipes.data.sources import load_split
from recipes.data.splitting import split_fractions, split_off
from recipes.data.summary import print_summary
from recipes.messages import RecipeError
from recipes.models.gguf import as_folder
from recipes.models.pretrained import load_tokenizer
from recipes.ranges import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class RecipeData(LightningDataModule, ABC):
    """The splits of a task, tokenized, and the batches of them.

    A task gives :meth:`load_splits` and :meth:`collate`, and :meth:`largest_batch` for ``recipes.estimate``; with
    :meth:`inspect` it finds what the shape of a model depends on. It may choose another order of training with
    :meth:`train_sampler`, and says with :meth:`filler` which row no metric counts.

    It gets the rows of a split with :meth:`read`, its tokenizer with :meth:`load_tokenizer`, and batches that a
    resumed run goes on with.

    Args:
        train: Training file or files, or a split of ``path``. Not needed to test or predict with a trained model.
        validation: Validation file or files, or a split of ``path``, or a fraction to split off the training
            rows. What is tuned is tuned on it.
        test: Test file or files, or a split of ``path``, or a fraction to split off the training rows. The
            best checkpoint is tested on it once. Null: no test.
        path: Name of a dataset on the hub, or its folder. Null: all splits are files.
        name: Configuration of the dataset at ``path``, such as ``mrpc`` of ``nyu-mll/glue``.
        load_args: More arguments for ``datasets.load_dataset``, such as ``{sep: ";"}`` or ``{revision: main}``.
        tokenizer: Hub name or folder of the tokenizer, or a .gguf file. Null: the model's own.
        batch_size: Training examples in a batch, on each device.
        eval_batch_size: Examples in a batch when validating, testing and predicting.
        split_seed: Seeds the splitting. The rows of each split stay the same whatever the run's seed.
        num_workers: Processes that prepare batches. Texts are tokenized beforehand, so 0 is fast.

    Attributes:
        sources: What each split is read from: file or files, the name of a split, a fraction, or None.
        splits: The rows that batches are made of, once loaded.
        tokenizer: The tokenizer, once loaded.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: float | str | list[str] = 0.1,
        test: float | str | list[str] | None = None,
        path: str | None = None,
        name: str | None = None,
        load_args: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        batch_size: PositiveInt = 32,
        eval_batch_size: PositiveInt = 64,
        split_seed: int = 42,
        num_workers: NonNegativeInt = 0,
    ) -> None:
        super().__init__()
        self.sources: dict[str, str | list[str] | float | None] = {
            "train": train,
            "validation": validation,
            "test": test,
        }
        self.path = _expanded(path)
        self.name = name
        self.load_args = load_args
        self.tokenizer_name = _expanded(tokenizer)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.split_seed = split_seed
        self.num_workers = num_workers
        self.splits: dict[str, Dataset] = {}
        self.tokenizer: PreTrainedTokenizerBase
        self._pretrained: str | None = None
        self._trust_remote_code = False
        self._train_loader: ResumableLoader | None = None
        self._place: dict[str, int] | None = None

    # What a task gives

    @abstractmethod
    def load_splits(self, command: str) -> "dict[str, Dataset]":
        """Reads, checks and tokenizes the splits that a command needs, and loads the tokenizer.

        Every process calls it, the first one before the others: what it makes with ``datasets`` they find in the
        cache.

        Args:
            command: ``fit``, ``validate``, ``test`` or ``predict``.

        Returns:
            ``train``, ``validation`` and ``test`` as far as there are sources for them, or ``predict``.
        """

    @abstractmethod
    def collate(self, rows: list[dict[str, Any]]) -> Mapping[str, Tensor]:
        """Puts rows of a split into a batch."""

    @abstractmethod
    def largest_batch(self) -> dict[str, Tensor]:
        """A training batch of the largest shape there can be, its numbers without meaning; after :meth:`inspect`."""

    def inspect(self) -> None:
        """Finds what the shape of a model depends on, such as labels, and reads no more of the data than it takes."""
        self.tokenizer = self.load_tokenizer()

    def train_sampler(self, rows: "Dataset", **shard: Any) -> DistributedSampler:
        """The order of training: one of its own for each seed and epoch, the same for a resumed run.

        Args:
            rows: The training split.
            shard: ``num_replicas`` and ``rank``, for the sampler does the sharding itself; ``seed``.
        """
        return DistributedSampler(rows, shuffle=True, **shard)

    def filler(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row that no metric counts: it fills a split up where several processes share its rows.

        By default the row itself, which then counts twice.

        Args:
            row: A row of the split.
        """
        return row

    def summary(self) -> dict[str, dict[str, Any]]:
        """What was understood of each split, for the table before training and ``data`` in the report.

        Returns:
            Of each split, whole numbers and shares by their names; ``labels`` may hold the rows of each label.
        """
        return {split: {"rows": len(rows)} for split, rows in self.splits.items()}

    # What it gets

    def tokenize_for(self, pretrained: str | None, trust_remote_code: bool = False) -> None:
        """Tells the data which model it is for; called by the recipe, before anything is read.

        Args:
            pretrained: Its name; None for one that is trained from scratch.
            trust_remote_code: Whether code that comes with its tokenizer may run.
        """
        self._pretrained = pretrained
        self._trust_remote_code = trust_remote_code

    @property
    def has_test(self) -> bool:
        """Whether there is a split to test the best checkpoint on."""
        return self.sources["test"] is not None

    def read(self, split: str) -> "Dataset | None":
        """The rows of a split as they are in its files or on the hub; None where it has no source of its own.

        Args:
            split: Its name, a key of :attr:`sources`.

        Raises:
            RecipeError: They cannot be read.
        """
        source = self.sources[split]
        if not isinstance(source, str | list):
            return None
        return load_split(source, key=f"data.{split}", path=self.path, name=self.name, load_args=self.load_args)

    def split_fractions(self, splits: "dict[str, Dataset]", stratify_by: str | None = None) -> None:
        """Splits ``validation`` and ``test`` off the training rows where they are fractions.

        Args:
            splits: The splits read so far; ``train`` keeps the rest.
            stratify_by: A ``ClassLabel`` column whose classes keep their shares.

        Raises:
            RecipeError: There are no training rows, or a fraction leaves none.
        """
        split_fractions(splits, self.sources, partial(split_off, seed=self.split_seed, stratify_by=stratify_by))

    def load_tokenizer(self, padding: bool = True) -> "PreTrainedTokenizerBase":
        """Loads the tokenizer that ``tokenizer`` names, else the model's own.

        Args:
            padding: Whether it needs a padding token.

        Raises:
            RecipeError: There is none, or it cannot be read.
        """
        key = "data.tokenizer" if self.tokenizer_name else "model.pretrained"
        name = self.tokenizer_name or self._pretrained
        if name is None:
            raise RecipeError("data.tokenizer is null, and so is model.pretrained: give one of them")
        folder = as_folder(name, key)
        return load_tokenizer(folder, key, padding=padding, trust_remote_code=self._trust_remote_code)

    def prepare_data(self) -> None:
        """Loads all splits on rank 0 alone; the other ranks find them in the cache."""
        self._load()

    def setup(self, stage: str) -> None:
        """Makes the splits that ``stage`` (fit, validate, test or predict) needs ready to be batched."""
        self._load()
        if stage == "fit" and getattr(rank_zero_only, "rank", 0) == 0:
            print_summary(self.summary())

    def _load(self) -> None:
        assert self.trainer is not None
        command = str(TrainerFn(self.trainer.state.fn or "fit").value)
        if command == "fit" and self.sources["train"] is None:
            raise RecipeError(
                "data.train is null, so there is nothing to train on: give a file or a split of data.path"
            )
        if command == "predict" and "predict" in self.sources and self.sources["predict"] is None:
            raise RecipeError(
                "data.predict is null, so there is nothing to predict: give a file or a split of data.path"
            )
        loaded = "predict" in self.splits if command == "predict" else bool(self.splits.keys() - {"predict"})
        if not loaded:
            self.splits |= self.load_splits(command)
        if command == "predict" and "predict" not in self.splits:
            raise RecipeError(f"{type(self).__name__} does not support predict: it has no rows without a target")

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches, as :meth:`train_sampler` orders them."""
        assert self.trainer is not None
        # Lightning would wrap any other sampler in a shuffle of its own, without regard to the run's seed.
        sampler = self.train_sampler(
            self.splits["train"],
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            seed=int(os.environ.get("PL_GLOBAL_SEED", "0")),
        )
        self._train_loader = self._loader(ResumableLoader, self.splits["train"], self.batch_size, sampler=sampler)
        self._train_loader.resume(self._place)
        return self._train_loader

    def val_dataloader(self) -> DataLoader:
        """Batches of the validation split, in its order."""
        return self._loader(DataLoader, self._for_all_processes("validation"), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in its order."""
        if "test" not in self.splits:
            raise RecipeError("data.test is null, so there is nothing to test on: give a file, a split or a fraction")
        return self._loader(DataLoader, self._for_all_processes("test"), self.eval_batch_size)

    def predict_dataloader(self) -> DataLoader:
        """Batches of the rows to predict, in their order."""
        return self._loader(DataLoader, self.splits["predict"], self.eval_batch_size)

    def _for_all_processes(self, split: str) -> "Dataset":
        """A split with as many rows for each process: else some would be evaluated twice, and count twice."""
        from datasets import Dataset, concatenate_datasets

        assert self.trainer is not None
        rows = self.splits[split]
        missing = -len(rows) % self.trainer.world_size
        if not missing:
            return rows
        filling = Dataset.from_list([self.filler(rows[-1])] * missing, features=rows.features)
        return concatenate_datasets([rows, filling])

    def _loader(self, kind: Callable[..., Any], rows: "Dataset", batch_size: int, **arguments: Any) -> Any:
        return kind(
            dataset=rows,
            batch_size=batch_size,
            collate_fn=self.collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            **arguments,
        )

    def state_dict(self) -> dict[str, Any]:
        """The place in the training split, for a run that goes on from here."""
        return {} if self._train_loader is None else {"place": self._train_loader.place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the place in the training split."""
        self._place = state_dict.get("place")


def _expanded(name: str | None) -> str | None:
    return None if name is None else os.path.expanduser(name)
