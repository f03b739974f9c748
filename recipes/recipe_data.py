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
from recipes.data.whole_batches import WholeBatches
from recipes.messages import RecipeError
from recipes.models.gguf import as_folder
from recipes.models.pretrained import load_tokenizer
from recipes.ranges import NonNegativeInt, PositiveInt
from recipes.sharding.processes import data_parallel
from recipes.training.ranks import connect

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class RecipeData(LightningDataModule, ABC):
    """The splits of a task, tokenized, and the batches of them.

    A task defines :meth:`load_splits` and :meth:`collate`, and :meth:`largest_batch` for ``recipes.estimate``. It may
    override :meth:`inspect` (what the shape of the model depends on), :meth:`train_sampler` (another order of training)
    and :meth:`filler` (a row that no metric counts).

    This class provides the rows of a split (:meth:`read`), the tokenizer (:meth:`load_tokenizer`), and data loaders
    that a resumed run continues within an epoch.

    Args:
        train: Training file or files, or a split of ``path``. Not needed to test or predict with a trained model.
        validation: Validation file or files, or a split of ``path``, or a fraction to split off the training
            rows; for tuning. Null: no validation, and the newest checkpoint is the best one.
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
        sources: The source of each split: file or files, the name of a split, a fraction, or None.
        splits: The rows of each split, once loaded.
    """

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: float | str | list[str] | None = 0.1,
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

    # What a task defines

    @abstractmethod
    def load_splits(self, command: str) -> "dict[str, Dataset]":
        """Reads, checks and tokenizes the splits that a command needs, and loads the tokenizer.

        Every process calls it, rank 0 before the others, which then find what ``datasets`` made in the cache.

        Args:
            command: ``fit``, ``validate``, ``test`` or ``predict``.

        Returns:
            ``train``, ``validation`` and ``test``, those that have a source; or ``predict``.
        """

    @abstractmethod
    def collate(self, rows: list[dict[str, Any]]) -> Mapping[str, Tensor]:
        """Collates rows of a split into a batch."""

    @abstractmethod
    def largest_batch(self) -> dict[str, Tensor]:
        """A training batch of the largest possible shape, with arbitrary values; called after :meth:`inspect`."""

    def inspect(self) -> None:
        """Finds what the shape of the model depends on, such as the labels, and reads only the data needed for it."""
        self.tokenizer = self.load_tokenizer()

    def train_sampler(self, rows: "Dataset", **shard: Any) -> DistributedSampler:
        """The order of training: a different one for each seed and epoch, the same for a resumed run.

        Args:
            rows: The training split.
            shard: ``num_replicas`` and ``rank``, since the sampler shards by itself, and ``seed``.
        """
        return DistributedSampler(rows, shuffle=True, **shard)

    def filler(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row that no metric counts, for the processes that have no batch left when the others have their last one.

        By default the row itself, which is then counted twice.

        Args:
            row: A row of the split.
        """
        return row

    def summary(self) -> dict[str, dict[str, Any]]:
        """A summary of each split, for the table before training and ``data`` in the report.

        Returns:
            For each split, integers and fractions by name; ``labels`` may hold the number of rows of each label.
        """
        return {split: {"rows": len(rows)} for split, rows in self.splits.items()}

    # What this class provides

    def tokenize_for(self, pretrained: str | None, trust_remote_code: bool = False) -> None:
        """Sets the model to tokenize for; called by the recipe before anything is read.

        Args:
            pretrained: Its name; None for a model that is trained from scratch.
            trust_remote_code: Whether code that comes with its tokenizer may run.
        """
        self._pretrained = pretrained
        self._trust_remote_code = trust_remote_code

    @property
    def has_test(self) -> bool:
        """Whether there is a split to test the best checkpoint on."""
        return self.sources["test"] is not None

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""
        return self.sources["validation"] is not None

    def read(self, split: str) -> "Dataset | None":
        """The rows of a split as in its files or on the hub; None if it has no source of its own.

        Args:
            split: Its name, a key of :attr:`sources`.

        Raises:
            RecipeError: They cannot be read.
        """
        source = self.sources[split]
        if not isinstance(source, str | list):
            return None
        return load_split(source, key=f"data.{split}", path=self.path, name=self.name, load_args=self.load_args)

    def split_fractions(
        self, splits: "dict[str, Dataset]", stratify_by: str | None = None, command: str = "fit"
    ) -> None:
        """Splits ``validation`` and ``test`` off the training rows if they are fractions.

        Args:
            splits: The splits read so far; ``train`` keeps the rest.
            stratify_by: A ``ClassLabel`` column whose class proportions are kept.
            command: The one that is run: without training rows, fractions that it does not need are left out.

        Raises:
            RecipeError: There are no training rows, or a fraction leaves none.
        """
        split = partial(split_off, seed=self.split_seed, stratify_by=stratify_by)
        split_fractions(splits, self.sources, split, command)

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
        """Loads the splits that ``stage`` (fit, validate, test or predict) needs."""
        assert self.trainer is not None
        connect(self.trainer)  # from here on, an error of one process ends all
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
        if not self._has_loaded(command):
            self.splits |= self.load_splits(command)
        if command == "predict" and "predict" not in self.splits:
            raise RecipeError(f"{type(self).__name__} does not support predict: it has no rows without a target")

    def _has_loaded(self, command: str) -> bool:
        """Whether the splits were read, and not for another command without the one that this command needs."""
        needed = {"fit": "train", "validate": "validation"}.get(command, command)
        if self.sources.get(needed) is not None or command == "predict":
            return needed in self.splits
        return bool(self.splits.keys() - {"predict"})

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches, as :meth:`train_sampler` orders them."""
        # Lightning would replace any other sampler by one that shuffles without the run's seed.
        sampler = self.train_sampler(
            self.splits["train"], **self.shard, seed=int(os.environ.get("PL_GLOBAL_SEED", "0"))
        )
        self._train_loader = self._loader(ResumableLoader, self.splits["train"], self.batch_size, sampler=sampler)
        self._train_loader.resume(self._place)
        return self._train_loader

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Batches of the validation split, in its order; in a training without validation, none."""
        if not self.has_validation:
            assert self.trainer is not None
            if self.trainer.state.fn == TrainerFn.FITTING:
                return []
            raise RecipeError("data.validation is null, so there is nothing to validate on: give a file or a fraction")
        return self._evaluation_loader(self.splits["validation"])

    def test_dataloader(self) -> DataLoader:
        """Batches of the test split, in its order."""
        if "test" not in self.splits:
            raise RecipeError("data.test is null, so there is nothing to test on: give a file, a split or a fraction")
        return self._evaluation_loader(self.splits["test"])

    def predict_dataloader(self) -> DataLoader:
        """Batches of the rows to predict, in their order; a row beyond the last one is a filler, not to be written."""
        return self._evaluation_loader(self.splits["predict"])

    def _evaluation_loader(self, rows: "Dataset") -> DataLoader:
        """This process's batches of a split; see :class:`~recipes.data.whole_batches.WholeBatches`."""
        from datasets import Dataset, concatenate_datasets

        sampler = WholeBatches(rows, self.eval_batch_size, **self.shard)
        if sampler.num_replicas > 1:
            filler = Dataset.from_list([self.filler(rows[-1])], features=rows.features)
            rows = concatenate_datasets([rows, filler])
        return self._loader(DataLoader, rows, self.eval_batch_size, sampler=sampler)

    @property
    def shard(self) -> dict[str, int]:
        """``num_replicas``, into how many parts the strategy divides a batch, and ``rank``, which one is ours.

        Processes that share a batch, as in tensor parallelism, have the same part.
        """
        assert self.trainer is not None
        replicas, rank = data_parallel(self.trainer)
        return {"num_replicas": replicas, "rank": rank}

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
        """The position in the training split, for a resumed run."""
        return {} if self._train_loader is None else {"place": self._train_loader.place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the position in the training split."""
        self._place = state_dict.get("place")


def _expanded(name: str | None) -> str | None:
    return None if name is None else os.path.expanduser(name)
