"""The parts of a training's memory on one device, for several optimizers: from shapes, without loading weights."""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn

from lightning_adafactor.gradient_release import find_blocks
from lightning_adafactor.gradient_release.unsupported import KEEPS_GRADIENTS, SCALES, SHARD_INSTEAD, check_optimizer
from lightning_adafactor.memory import StateSize
from lightning_adafactor.prediction import bitsandbytes_adamw8bit_state, predict_state
from lightning_adafactor.sharded.layout import local
from recipes.estimate.activations import PRECISIONS, TRUE_DTYPES, Peak, peak_bytes
from recipes.estimate.mesh import Gathered, Processes, gathered, sharded
from recipes.estimate.step import step_bytes
from recipes.messages import RecipeError
from recipes.recipe import Recipe
from recipes.recipe_data import RecipeData
from recipes.runs.report import import_path
from recipes.training import optimizer as optimization
from recipes.training.device_support import compiles, unsupported_reason

ALIASES = {"None": "32-true", "32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
FORMULAS = {"bitsandbytes.optim.AdamW8bit": bitsandbytes_adamw8bit_state}
"""The state size of optimizers whose library may be missing."""


@dataclass(frozen=True)
class Candidate:
    """An optimizer to estimate.

    Attributes:
        name: Its name in the table.
        class_path: Import path of its class.
        make: Makes it from parameter groups; None where this environment does not support it, or its step takes
            minutes.
        unsupported_reason: Why ``make`` is None.
        own: Whether it is the recipe's own.
    """

    name: str
    class_path: str
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None
    unsupported_reason: str = ""
    own: bool = False

    @classmethod
    def made_by(
        cls,
        make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
        name: str,
        class_path: str,
        own: bool = False,
    ) -> "Candidate":
        """A candidate of this environment: without ``make`` if a step needs a GPU that is not there, or compiles."""
        kind = optimization.class_of(make)
        reason = unsupported_reason(kind, "cuda" if torch.cuda.is_available() else "cpu")
        if not reason and compiles(kind):
            reason = "unknown before its library has compiled its CUDA kernels, which takes minutes"
        return cls(name, class_path, None if reason else make, reason, own)


@dataclass(frozen=True)
class Estimate:
    """The peak memory of one process in a training step, with one optimizer.

    Attributes:
        name: The optimizer's name.
        optimizer: Import path of its class.
        own: Whether it is the recipe's own.
        dtype: The dtype of the parameters.
        gradient_release: Whether each block of parameters is stepped and its gradients freed during the backward pass.
        parameters: All parameters.
        gradients: Those of all trainable parameters or, with gradient release, of the largest block.
        state: The optimizer's state; None if unknown.
        buffers: Bytes of the buffers.
        activations: Bytes that forward and backward pass take beyond these gradients, an upper bound.
        step: Bytes of the temporaries of the optimizer's step, when the activations are freed; an estimate.
        gathered: What FSDP2 gathers in the forward and backward pass.
        buckets: Bytes of the buckets into which DDP copies gradients to sum them.
        note: Why the state is unknown, or how it is known; or why gradient release is not supported.
        supported: Whether optimizer and run support gradient release, if the estimate is one with it.
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
    gathered: Gathered = dataclasses.field(default_factory=Gathered)
    buckets: int = 0
    note: str = ""
    supported: bool = True

    @property
    def total(self) -> int | None:
        """Peak bytes; None if the state is unknown, or gradient release is not supported."""
        if self.state is None or not self.supported:
            return None
        temporary = max(self.activations + self.gathered.total, self.step)
        lasting = self.parameters.bytes + self.gradients.bytes + self.state.bytes + self.buffers + self.buckets
        return lasting + temporary


class Setting:
    """A recipe's module on the meta device, its largest batch, and the trainer's precision.

    Args:
        module: The recipe's module; it has ``build_on_meta(data)``, ``model`` and ``optimizer``.
        data: Its data; it has ``largest_batch()`` and ``batch_size``.
        precision: ``trainer.precision``.
        gpu: Whether to estimate for a GPU; else for a CPU.
        processes: The processes of the run; if they share the model, all is called within ``fake_processes``.

    Raises:
        RecipeError: The module or the data cannot be estimated, or the precision is not supported.
    """

    def __init__(
        self,
        module: LightningModule,
        data: LightningDataModule,
        precision: Any,
        gpu: bool,
        processes: Processes | None = None,
    ) -> None:
        self.gpu = gpu
        self.processes = processes or Processes()
        for owner, contract in ((module, Recipe), (data, RecipeData)):
            if not isinstance(owner, contract):
                raise RecipeError(
                    f"{type(owner).__name__} cannot be estimated: it does not subclass {import_path(contract)}, as "
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
        self.module.estimated_device_type = "cuda" if gpu else "cpu"
        self.module.build_on_meta(data)
        if self.precision in TRUE_DTYPES:
            self.module.model.to(TRUE_DTYPES[self.precision])
        self._sharded = sharded(self.module.model, self.processes) if self.processes.are_sharded else None
        self._dtype: torch.dtype | None = None
        self._peaks: dict[tuple[Any, ...], Peak] = {}

    def held_in(self, dtype: torch.dtype) -> "Setting":
        """The same recipe with all floating-point parameters held in ``dtype``."""
        other = copy.copy(self)
        other._dtype = None if dtype == self.dtype else dtype
        return other

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters, tied ones once; DTensors where processes share them."""
        return [self._held(parameter) for parameter in (self._sharded or self.module).parameters()]

    def gathered(self) -> Gathered:
        """What FSDP2 gathers."""
        if self._sharded is None:
            return Gathered()
        names = (self.module.gather_dtype, self.module.reduce_dtype)
        gather, reduce = (None if name is None else getattr(torch, name) for name in names)
        return gathered(self._sharded, self.processes.data, gather or self._dtype, reduce)

    def _held(self, parameter: nn.Parameter) -> nn.Parameter:
        if self._dtype is None or not parameter.is_floating_point():
            return parameter
        return nn.Parameter(parameter.detach().to(self._dtype), parameter.requires_grad)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of most parameters."""
        sizes: dict[torch.dtype, int] = {}
        for parameter in self.parameters:
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
        return max(sizes, key=lambda dtype: sizes[dtype])

    def buffer_bytes(self) -> int:
        """Bytes of the buffers, each once."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.module.buffers())

    def activation_bytes(
        self,
        batch_size: int | None = None,
        checkpointing: bool | None = None,
        released: bool = False,
        loss: str | None = None,
        offload: bool | None = None,
    ) -> int:
        """What forward and backward pass take beyond the gradients; see :mod:`recipes.estimate.activations`.

        Args:
            batch_size: Examples in the batch; None for ``data.batch_size``.
            checkpointing: Whether activations are recomputed in the backward pass; None for the recipe's setting.
            released: With gradient release: beyond the gradients of the largest block.
            loss: The ``model.loss`` of a language model; None for the recipe's.
            offload: Whether activations wait on the host; None for the recipe's setting.
        """
        batch_size = batch_size or int(self.data.batch_size)
        key = (self.dtype, batch_size, checkpointing, loss, offload)
        if key not in self._peaks:
            with self._changed(batch_size, checkpointing, loss, offload):
                self._peaks[key] = peak_bytes(
                    self.module, self.data.largest_batch, self._loss, self.precision, self.gpu, self._dtype
                )
        peak = self._peaks[key]
        return peak.released - self._largest_block(self.module).bytes if released else peak.plain - peak.gradients

    def _loss(self, batch: Any) -> Tensor:
        loss = self.module.training_step(batch, 0)
        return loss["loss"] if isinstance(loss, Mapping) else loss

    @contextmanager
    def _changed(
        self, batch_size: int, checkpointing: bool | None, loss: str | None, offload: bool | None
    ) -> Iterator[None]:
        before = self.data.batch_size
        own_loss = getattr(self.module, "loss", None)
        self.data.batch_size = batch_size
        with warnings.catch_warnings():
            # Newer releases of transformers give the methods another name.
            warnings.simplefilter("ignore", FutureWarning)
            # Without a trainer, self.log() does nothing but warn.
            warnings.filterwarnings("ignore", message=r".*You are trying to `self\.log\(\)`.*")
            self._set_checkpointing(checkpointing)
            if loss is not None:
                self.module.loss = loss
            if offload is not None:
                self.module.offloading.enabled = offload
            try:
                yield
            finally:
                self.data.batch_size = before
                if loss is not None:
                    self.module.loss = own_loss
                self.module.offloading.enabled = self.module.activation_offload
                if checkpointing is not None:
                    self._set_checkpointing(self.module.gradient_checkpointing)

    def _set_checkpointing(self, checkpointing: bool | None) -> None:
        if checkpointing:
            self.module.model.gradient_checkpointing_enable({"use_reentrant": False})
        elif checkpointing is False:
            self.module.model.gradient_checkpointing_disable()

    def can_checkpoint(self) -> bool:
        """Whether the recipe has activation checkpointing off, and its model supports it."""
        switch = getattr(self.module, "gradient_checkpointing", None)
        return switch is False and bool(getattr(self.module.model, "supports_gradient_checkpointing", False))

    def state(self, candidate: Candidate) -> tuple[StateSize | None, str]:
        """The state of an optimizer, None if unknown, and a note on how it is known or why it is not."""
        if candidate.make is None:
            formula = FORMULAS.get(candidate.class_path)
            if formula is None:
                return None, candidate.unsupported_reason
            return formula(
                [nn.Parameter(local(parameter), parameter.requires_grad) for parameter in self.parameters]
            ), f"{candidate.unsupported_reason}; from the formula for its default arguments"
        try:
            with warnings.catch_warnings():
                # Paged state has the same size in the CPU's memory, where bitsandbytes does not page it.
                warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
                return predict_state(candidate.make, self._parameter_groups(candidate)), ""
        except Exception as error:  # any optimizer can be given: the table shows what it raised
            return None, (str(error).strip() or type(error).__name__).splitlines()[0]

    @property
    def releases(self) -> bool:
        """Whether the recipe has gradient release on."""
        return bool(self.module.gradient_release)

    @property
    def no_release(self) -> str:
        """Why the run does not support gradient release, with whatever optimizer; empty if it does."""
        if self.processes.replicated:
            return f"DDP {KEEPS_GRADIENTS}: {SHARD_INSTEAD}"
        if self.precision == "16-mixed" and self.gpu:  # on a CPU, Lightning takes bf16-mixed
            return f"trainer.precision is 16-mixed, and {SCALES}"
        return ""

    def largest_block(self) -> StateSize:
        """The gradients that gradient release keeps on this device at a time."""
        return self._largest_block(self._sharded or self.module)

    def _largest_block(self, model: nn.Module) -> StateSize:
        blocks = (map(self._held, block.params) for block in find_blocks(model))
        return max(map(_size, blocks), key=lambda size: size.bytes, default=StateSize(0, 0))

    def release_unsupported_reason(self, candidate: Candidate) -> str:
        """Why the run or an optimizer does not support gradient release; empty if both do."""
        if self.no_release:
            return self.no_release
        if candidate.make is None:
            return candidate.unsupported_reason
        try:
            check_optimizer(candidate.make(self._parameter_groups(candidate)))
        except Exception as error:  # any optimizer can be given
            return str(error)
        return ""

    def step_bytes(self, candidate: Candidate) -> int:
        """The temporaries of an optimizer's step; 0 for those with kernels of their own, which take little."""
        if candidate.make is None:
            return 0
        groups = self._parameter_groups(candidate)
        groups = [{**group, "params": [nn.Parameter(local(each)) for each in group["params"]]} for group in groups]
        return step_bytes(candidate.make, groups, self.gpu) or 0

    def _parameter_groups(self, candidate: Candidate) -> list[dict[str, Any]]:
        model = self._sharded or self.module.model
        groups = optimization.parameter_groups(model, candidate.make, self.module.layer_lr_decay)
        return [{**group, "params": [self._held(parameter) for parameter in group["params"]]} for group in groups]


def estimate(setting: Setting, candidates: Sequence[Candidate]) -> list[Estimate]:
    """Estimates a recipe for each optimizer, with its own dtype and bfloat16, without and with gradient release.

    Args:
        setting: The recipe.
        candidates: The optimizers.

    Returns:
        The estimates: by dtype, then by optimizer, then without and with gradient release.
    """
    settings = {held.dtype: held for held in (setting, setting.held_in(torch.bfloat16))}
    return [row for held in settings.values() for row in rows_of(held, candidates)]


def without_duplicates(rows: Sequence[Estimate]) -> list[Estimate]:
    """Leaves out an optimizer that has the class and the state size of the recipe's own."""
    own = {(row.optimizer, row.dtype, row.state) for row in rows if row.own}
    return [row for row in rows if row.own or (row.optimizer, row.dtype, row.state) not in own]


def rows_of(setting: Setting, candidates: Iterable[Candidate]) -> Iterator[Estimate]:
    """Estimates a recipe for each optimizer with its own dtype, without and with gradient release.

    Args:
        setting: The recipe.
        candidates: The optimizers.
    """
    sizes = [_size([parameter]) for parameter in setting.parameters if parameter.requires_grad]
    gradients = StateSize(sum(size.elements for size in sizes), sum(size.bytes for size in sizes))
    largest, in_blocks, processes = setting.largest_block(), setting.gathered(), setting.processes
    copied = processes.replicated and processes.number > 1 and not processes.gradient_as_bucket_view
    for candidate in candidates:
        state, note = setting.state(candidate)
        row = Estimate(
            name=candidate.name,
            optimizer=candidate.class_path,
            own=candidate.own,
            dtype=str(setting.dtype).removeprefix("torch."),
            gradient_release=False,
            parameters=_size(setting.parameters),
            gradients=gradients,
            state=state,
            buffers=setting.buffer_bytes(),
            activations=setting.activation_bytes(),
            step=setting.step_bytes(candidate),
            gathered=in_blocks,
            buckets=gradients.bytes if copied else 0,
            note=note,
        )
        yield row
        reason = setting.release_unsupported_reason(candidate)
        released = dataclasses.replace(
            row,
            gradient_release=True,
            gradients=largest,
            activations=setting.activation_bytes(released=True),
            step=0,
        )
        yield dataclasses.replace(released, supported=False, note=reason) if reason else released


def _size(parameters: Iterable[Tensor]) -> StateSize:
    """The size of what this process holds of parameters."""
    parameters = [local(parameter) for parameter in parameters]
    return StateSize(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() * parameter.element_size() for parameter in parameters),
    )
