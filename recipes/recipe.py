"""The contract of a task: a :class:`Recipe`, which is the module, and its :class:`RecipeData`.

Whoever writes both gets ``fit``, ``validate``, ``test`` and ``predict`` with exact resume, the files of a run, and the
commands ``estimate``, ``compare`` and ``reproduce``. CONTRIBUTING.md shows a whole task.

Arrows go one way: the module tells its data once which model to tokenize for (:meth:`RecipeData.tokenize_for`), and
from then on reads labels and tokenizer from it. The data never asks the module.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler

from recipes.data.loader import ResumableLoader
from recipes.data.sources import load_split
from recipes.data.splitting import split_fractions, split_off
from recipes.data.summary import print_summary
from recipes.messages import RecipeError
from recipes.models.gguf import as_folder, config_location
from recipes.models.pretrained import load_config, load_model, load_tokenizer, save, set_checkpointing
from recipes.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt
from recipes.runs.history import RunHistory
from recipes.runs.report import import_path
from recipes.training.optimizer import Schedule, configure
from recipes.training.unsupported import refuse_for_recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

Data = TypeVar("Data", bound="RecipeData")


class Recipe(LightningModule, Generic[Data]):
    """A model, its loss and its metrics.

    A task gives ``training_step``, ``validation_step`` and ``test_step``, which log ``train/loss`` and ``val/...`` and
    ``test/...`` metrics; :attr:`auto_class` and :meth:`model_config` or, for a model that is not transformers',
    :meth:`make_model`; what it needs in ``__init__``, which hands the rest on. It may override
    :meth:`before_training` and :meth:`report_details`.

    It gets the model in :attr:`model` before the first step, its data in :attr:`data`, optimizer and schedule, and the
    recorded :attr:`history`.

    Args:
        optimizer: The optimizer: class and arguments, without the parameters. Biases and norms get no weight
            decay.
        pretrained: Hub name (``org/model`` or, to stay with one commit, tag or branch, ``org/model@v1``) or folder
            (safetensors) of the model to start from, or a .gguf file, which is unpacked once and kept below
            HF_HOME.
        schedule: How the learning rate runs from its warm-up to the last step. Null: the optimizer decides.
        warmup: Share of the steps (below 1) or number of steps in which the learning rate rises to its full
            value.
        schedule_args: More arguments of the schedule, such as ``{num_cycles: 2}`` of ``cosine_with_restarts`` or
            ``{min_lr_rate: 0.1}`` of ``cosine_with_min_lr``.
        gradient_checkpointing: Whether activations are computed again in the backward pass and not kept: less
            memory, for the time of one more forward pass.
        dtype: What the parameters are held in. ``bfloat16`` halves their memory and that of the gradients,
            and needs an optimizer that rounds stochastically; mixed precision is the trainer's.
        trust_remote_code: Whether code that comes with the model or its tokenizer may run on this machine.

    Attributes:
        monitor: The metric that chooses the best checkpoint, and
        monitor_mode: whether it is to be high (``max``) or low (``min``).
        data_class: The class of data that the task is for.
        auto_class: The class of transformers that loads the model, such as ``AutoModelForCausalLM``.
        model: The model; None until Lightning calls :meth:`configure_model`.
        history: Losses, evaluations and seconds, which the report shows.
        run_callbacks: Callbacks that come with the task.
    """

    monitor: ClassVar[str] = "val/loss"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"
    data_class: ClassVar[type["RecipeData"]]
    auto_class: ClassVar[str] = "AutoModel"

    def __init__(
        self,
        optimizer: OptimizerCallable,
        pretrained: str | None = None,
        schedule: Schedule | None = "linear",
        warmup: NonNegativeFloat = 0.06,
        schedule_args: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer"])  # weights_only loading would refuse a callable
        self.optimizer = optimizer
        self.pretrained = _expanded(pretrained)
        self.schedule = schedule
        self.warmup = warmup
        self.schedule_args = schedule_args
        self.gradient_checkpointing = gradient_checkpointing
        self.dtype_name = dtype
        self.trust_remote_code = trust_remote_code
        self.history = RunHistory()
        self.run_callbacks: list[Callback] = [self.history]
        self.model: nn.Module | None = None

    @property
    def data(self) -> Data:
        """The data of this run: its labels, its tokenizer, its settings.

        Raises:
            RecipeError: The trainer has other data than :attr:`data_class`.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, self.data_class):
            raise RecipeError(
                f"{type(self).__name__} needs the data of {import_path(self.data_class)}: set data to it"
                + (f" (it is {import_path(type(data))})" if data is not None else "")
            )
        return data  # type: ignore[return-value]

    def configure_callbacks(self) -> list[Callback]:
        """The task's own callbacks. Lightning asks for them first, so here the data learns what it is tokenized for."""
        refuse_for_recipe(self.trainer)
        self.data.tokenize_for(self.pretrained, self.trust_remote_code)
        present = self.trainer.callbacks  # type: ignore[attr-defined]
        return [callback for callback in self.run_callbacks if callback not in present]

    def configure_model(self) -> None:
        """Loads the model, once."""
        if self.model is None:
            self.model = self.make_model(self.data, weights=True)

    def build_on_meta(self, data: Data) -> None:
        """Builds the model that :meth:`configure_model` would load, without weights, on the meta device.

        Args:
            data: What its shape depends on, such as the labels; no text is tokenized.
        """
        data.tokenize_for(self.pretrained, self.trust_remote_code)
        data.inspect()
        with torch.device("meta"):
            self.model = self.make_model(data, weights=False).train()

    def make_model(self, data: Data, weights: bool) -> nn.Module:
        """Makes the model: that of :attr:`auto_class` with the configuration of :meth:`model_config`.

        Args:
            data: The data, its labels and tokenizer known.
            weights: Whether to load the weights of ``pretrained``; else the model is only shaped.

        Returns:
            The model in train mode.
        """
        import transformers

        auto_class = getattr(transformers, self.auto_class)
        config = self.model_config(data)
        if weights and self.pretrained is not None:
            folder = as_folder(self.pretrained, "model.pretrained")
            args = (folder, "model.pretrained", config, self.dtype_name, self.trust_remote_code)
            model = load_model(auto_class, *args)
        else:
            dtype = getattr(torch, self.dtype_name)
            model = auto_class.from_config(config, dtype=dtype, trust_remote_code=self.trust_remote_code).train()
        if self.gradient_checkpointing:
            set_checkpointing(model, self.pretrained)
        return model

    def model_config(self, data: Data) -> "PretrainedConfig":
        """The configuration of the model, as the data wants it: that of ``pretrained`` by default.

        Args:
            data: The data, its labels and tokenizer known.
        """
        return self.load_config()

    def load_config(self, **changes: Any) -> "PretrainedConfig":
        """The configuration of ``pretrained``, with other values in place of its own; no weights are read.

        Raises:
            RecipeError: There is none, or it cannot be read.
        """
        assert self.pretrained is not None, "a task without pretrained has a model_config of its own"
        key = "model.pretrained"
        location = config_location(self.pretrained, key)
        return load_config(key=key, trust_remote_code=self.trust_remote_code, **location, **changes)

    def before_training(self, trainer: Trainer, data: Data) -> None:
        """Called before the first step of a run that is not resumed, to look at the untrained model.

        Args:
            trainer: The trainer.
            data: The data.
        """

    def report_details(self) -> dict[str, Any]:
        """What ``report.json`` has beyond that of any recipe."""
        return {}

    def configure_optimizers(self) -> Any:
        """What ``optimizer`` names, under the schedule."""
        assert self.model is not None
        return configure(self.model, self.trainer, self.optimizer, self.schedule, self.warmup, self.schedule_args)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes model and tokenizer in Hugging Face's format.

        Args:
            folder: Where to; made if it is not there.
        """
        save(self.model, self.data.tokenizer, folder)  # type: ignore[arg-type]


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
            rows. What is tuned is tuned on it. Null: no validation, and the newest checkpoint is the best one.
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

    @property
    def has_validation(self) -> bool:
        """Whether there is a validation split."""
        return self.sources["validation"] is not None

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

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Batches of the validation split, in its order; in a training without validation, none."""
        if not self.has_validation:
            assert self.trainer is not None
            if self.trainer.state.fn == TrainerFn.FITTING:
                return []
            raise RecipeError("data.validation is null, so there is nothing to validate on: give a file or a fraction")
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
