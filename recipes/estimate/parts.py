"""What a recipe will hold in memory, part by part, for several optimizers: from shapes, without loading anything."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn

from lightning_adafactor.memory import StateSize
from lightning_adafactor.prediction import bitsandbytes_adamw8bit_state, predict_state
from recipes.estimate.activations import PRECISIONS, TRUE_DTYPES, peak_bytes
from recipes.estimate.step import step_bytes
from recipes.messages import RecipeError
from recipes.recipe import Recipe, RecipeData
from recipes.training import optimizer as optimization

ALIASES = {"None": "32-true", "32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
FORMULAS = {"bitsandbytes.optim.AdamW8bit": bitsandbytes_adamw8bit_state}
"""What states take of optimizers whose library need not be installed."""


@dataclass(frozen=True)
class Candidate:
    """An optimizer to estimate.

    Attributes:
        name: What it is called in the table.
        class_path: Its class.
        make: Makes it from parameter groups; None where it cannot be made here.
        why_not: Why it cannot be made here.
        own: Whether it is the recipe's own.
    """

    name: str
    class_path: str
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None
    why_not: str = ""
    own: bool = False


@dataclass(frozen=True)
class Estimate:
    """What one process holds at the most in a training step, with one optimizer and one way to train.

    Attributes:
        name: The optimizer's name.
        optimizer: Its class.
        own: Whether it is the recipe's own.
        dtype: What the parameters are held in.
        gradient_release: Whether each gradient is used and given up within the backward pass.
        parameters: All parameters.
        gradients: Those of all trainable parameters or, with gradient release, of the largest one.
        state: The optimizer's state; None where it is not known.
        buffers: Bytes of the buffers.
        activations: Bytes of everything else in forward and backward pass, an estimate from above.
        step: Bytes that the optimizer takes for its step, when the activations are gone; an estimate.
        note: Why the state is not known, or how.
    """

    name: str
    optimizer: str
    own: bool
    dtype: str
    gradient_release: bool
    parameters: StateSize
    gradients: StateSize
    state: StateSize | None
    buffers: int
    activations: int
    step: int
    note: str = ""

    @property
    def total(self) -> int | None:
        """The most bytes at one time; None where the state is not known."""
        if self.state is None:
            return None
        moment = max(self.activations, self.step)
        return self.parameters.bytes + self.gradients.bytes + self.state.bytes + self.buffers + moment


class Setting:
    """A recipe's module on the meta device, its largest batch, and how the trainer computes.

    Args:
        module: The recipe's module; it has ``build_on_meta(data)``, ``model`` and ``optimizer``.
        data: Its data; it has ``largest_batch()`` and ``batch_size``.
        precision: ``trainer.precision``.
        gpu: Whether to estimate for a GPU; else for a CPU.

    Raises:
        RecipeError: The module or the data cannot be estimated, or the precision is not known.
    """

    def __init__(self, module: LightningModule, data: LightningDataModule, precision: Any, gpu: bool) -> None:
        self.gpu = gpu
        for owner, contract in ((module, Recipe), (data, RecipeData)):
            if not isinstance(owner, contract):
                raise RecipeError(
                    f"{type(owner).__name__} cannot be estimated: it is no recipes.recipe.{contract.__name__}, as "
                    "recipes.TextClassifier and its data are"
                )
        self.precision = ALIASES.get(str(precision), str(precision))
        if self.precision not in PRECISIONS:
            raise RecipeError(
                f"trainer.precision is '{precision}', which cannot be estimated: use one of {', '.join(PRECISIONS)}"
            )
        self.module: Any
        self.data: Any
        self.module, self.data = module, data
        self.module.build_on_meta(data)
        self.module.log = self.module.log_dict = _no_log  # what it logs to is the trainer's
        if self.precision in TRUE_DTYPES:
            self.module.model.to(TRUE_DTYPES[self.precision])
        self._activations: dict[tuple[Any, ...], int] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters, tied ones once."""
        return list(self.module.parameters())

    @property
    def dtype(self) -> torch.dtype:
        """What most of the parameters are held in."""
        sizes: dict[torch.dtype, int] = {}
        for parameter in self.parameters:
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
        return max(sizes, key=lambda dtype: sizes[dtype])

    @contextmanager
    def held_in(self, dtype: torch.dtype) -> Iterator[None]:
        """Holds all parameters in another dtype for a while."""
        before = [(parameter, parameter.data) for parameter in self.parameters]
        for parameter, data in before:
            if data.is_floating_point():
                parameter.data = data.to(dtype)
        try:
            yield
        finally:
            for parameter, data in before:
                parameter.data = data

    def buffer_bytes(self) -> int:
        """Bytes of the buffers, each once."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.module.buffers())

    def activation_bytes(self, batch_size: int | None = None, checkpointing: bool | None = None) -> int:
        """The most that a step holds beside parameters, gradients and state; see :mod:`recipes.estimate.activations`.

        Args:
            batch_size: Examples in the batch; None for as many as are set.
            checkpointing: Whether activations are computed again in the backward pass; None as it is set.
        """
        batch_size = batch_size or int(self.data.batch_size)
        key = (self.dtype, batch_size, checkpointing)
        if key not in self._activations:
            with self._changed(batch_size, checkpointing):
                self._activations[key] = peak_bytes(
                    self.module, self.data.largest_batch, self._loss, self.precision, self.gpu
                )
        return self._activations[key]

    def _loss(self, batch: Any) -> Tensor:
        loss = self.module.training_step(batch, 0)
        return loss["loss"] if isinstance(loss, Mapping) else loss

    @contextmanager
    def _changed(self, batch_size: int, checkpointing: bool | None) -> Iterator[None]:
        before = self.data.batch_size
        self.data.batch_size = batch_size
        with warnings.catch_warnings():  # newer releases of transformers give the methods another name
            warnings.simplefilter("ignore", FutureWarning)
            if checkpointing:
                self.module.model.gradient_checkpointing_enable({"use_reentrant": False})
            try:
                yield
            finally:
                self.data.batch_size = before
                if checkpointing:
                    self.module.model.gradient_checkpointing_disable()

    def can_checkpoint(self) -> bool:
        """Whether the recipe has a switch for activation checkpointing that is off, and the model can do it."""
        switch = getattr(self.module, "gradient_checkpointing", None)
        return switch is False and bool(getattr(self.module.model, "supports_gradient_checkpointing", False))

    def state(self, candidate: Candidate) -> tuple[StateSize | None, str]:
        """What an optimizer will hold, and a note on how that is known or why it is not."""
        if candidate.make is None:
            formula = FORMULAS.get(candidate.class_path)
            if formula is None:
                return None, candidate.why_not
            return formula(self.parameters), f"{candidate.why_not}; by the formula of its defaults"
        groups = optimization.parameter_groups(self.module.model)
        try:
            return predict_state(candidate.make, groups), ""
        except Exception as error:  # an optimizer from anywhere: the table says what it raised
            return None, (str(error).strip() or type(error).__name__).splitlines()[0]

    def step_bytes(self, candidate: Candidate) -> int:
        """What an optimizer takes for its step; 0 for those in kernels of their own, which take little."""
        if candidate.make is None:
            return 0
        return step_bytes(candidate.make, optimization.parameter_groups(self.module.model), self.gpu) or 0


def estimate(setting: Setting, candidates: Sequence[Candidate]) -> list[Estimate]:
    """Estimates a recipe for each optimizer, with parameters as they are set and in bfloat16, with gradient release.

    Args:
        setting: The recipe.
        candidates: The optimizers.

    Returns:
        The estimates: by dtype, then by optimizer, then without and with gradient release.
    """
    return [
        row
        for dtype in dict.fromkeys((setting.dtype, torch.bfloat16))
        for row in _with_dtype(setting, candidates, dtype)
    ]


def without_doubles(rows: Sequence[Estimate]) -> list[Estimate]:
    """Leaves out an optimizer of the recipe's own class that also has a state of its own's size."""
    own = {(row.optimizer, row.dtype, row.state) for row in rows if row.own}
    return [row for row in rows if row.own or (row.optimizer, row.dtype, row.state) not in own]


def _with_dtype(setting: Setting, candidates: Iterable[Candidate], dtype: torch.dtype) -> Iterator[Estimate]:
    with setting.held_in(dtype):
        sizes = [_size([parameter]) for parameter in setting.parameters if parameter.requires_grad]
        gradients = StateSize(sum(size.elements for size in sizes), sum(size.bytes for size in sizes))
        largest = max(sizes, key=lambda size: size.bytes, default=StateSize(0, 0))
        for candidate in candidates:
            state, note = setting.state(candidate)
            row = Estimate(
                name=candidate.name,
                optimizer=candidate.class_path,
                own=candidate.own,
                dtype=str(dtype).removeprefix("torch."),
                gradient_release=False,
                parameters=_size(setting.parameters),
                gradients=gradients,
                state=state,
                buffers=setting.buffer_bytes(),
                activations=setting.activation_bytes(),
                step=setting.step_bytes(candidate),
                note=note,
            )
            yield row
            yield dataclasses.replace(row, gradient_release=True, gradients=largest, step=0)


def _size(parameters: Iterable[Tensor]) -> StateSize:
    parameters = list(parameters)
    return StateSize(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() * parameter.element_size() for parameter in parameters),
    )


def _no_log(*args: Any, **kwargs: Any) -> None:
    """Stands for ``LightningModule.log``, which needs a trainer."""
