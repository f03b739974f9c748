"""The contract of a task: a :class:`Recipe`, which is the module, and its :class:`~recipes.recipe_data.RecipeData`.

Whoever writes both gets ``fit``, ``validate``, ``test`` and ``predict`` with exact resume, the files of a run, and the
commands ``estimate``, ``compare`` and ``reproduce``. CONTRIBUTING.md shows a whole task.
"""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from lightning_adafactor import GradientRelease
from recipes.messages import RecipeError
from recipes.models.gguf import as_folder, config_location
from recipes.models.pretrained import load_config, load_model, save, set_checkpointing
from recipes.ranges import FractionAbove0, NonNegativeFloat
from recipes.recipe_data import RecipeData
from recipes.runs.history import RunHistory
from recipes.runs.report import import_path
from recipes.sharding.clipping import clip_by_norm, clip_by_value
from recipes.sharding.model import sharded_model
from recipes.sharding.tensor_parallel import sum_gradients
from recipes.sharding.weights import full_state_dict, is_sharded
from recipes.training.freezing import Frozen, freeze
from recipes.training.offloading import Offloading, offload_activations
from recipes.training.optimizer import Schedule, configure
from recipes.training.unsupported import refuse_for_recipe, refuse_for_release, refuse_to_release

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Data = TypeVar("Data", bound=RecipeData)


class Recipe(LightningModule, Generic[Data]):
    """A model, its loss and its metrics.

    A task defines ``training_step``, ``validation_step`` and ``test_step``, which log ``train/loss``, ``val/...`` and
    ``test/...`` metrics; :attr:`auto_class` and :meth:`model_config` or, for a model that is not from transformers,
    :meth:`make_model`; and its own arguments in ``__init__``, which passes the others on. It may override
    :meth:`before_training` and :meth:`report_details`.

    This class provides the model in :attr:`model` before the first step, the data in :attr:`data`, optimizer and
    schedule, and the recorded :attr:`history`.

    Args:
        optimizer: The optimizer: class and arguments, without the parameters. Biases and norms get no weight
            decay.
        pretrained: Hub name (``org/model``, or ``org/model@v1`` for a commit, tag or branch) or folder
            (safetensors) of the model to start from, or a .gguf file, which is converted once and kept below
            HF_HOME.
        schedule: The learning-rate schedule after the warm-up. Null: the optimizer's own learning rate.
        warmup: Fraction of the steps (below 1) or number of steps over which the learning rate rises to its full
            value.
        schedule_args: More arguments of the schedule, such as ``{num_cycles: 2}`` of ``cosine_with_restarts`` or
            ``{min_lr_rate: 0.1}`` of ``cosine_with_min_lr``.
        layer_lr_decay: The learning rate of each layer is that of the layer above it times this: the head has the
            optimizer's, the embeddings ``layer_lr_decay ** (layers + 1)`` times that. 0.8 to 0.95 is usual for
            fine-tuning. 1: the same for all. Needs an optimizer whose rate is given (no ``relative_step``).
        freeze: What keeps its pre-trained values, without gradients and optimizer state: ``embeddings``, or a number
            for the embeddings and as many layers next to them. An output layer that shares the weights of the
            embeddings is frozen with them. Null: nothing.
        gradient_checkpointing: Whether activations are recomputed in the backward pass instead of kept: less
            memory, for the time of one more forward pass.
        activation_offload: Whether activations wait for the backward pass in the memory of the host: less memory of the
            GPU, for the time of the copies; together with ``gradient_checkpointing`` only the blocks' inputs are
            copied. Has no effect on a CPU, and does not work where processes shard the model.
        gradient_release: Whether each layer is stepped during the backward pass, as soon as its gradients are complete,
            and these are freed: gradients take the memory of one layer instead of the whole model, and the results
            are the same. Needs an optimizer of ``lightning_adafactor``; does not work with
            ``trainer.accumulate_grad_batches``, ``trainer.gradient_clip_val``, ``16-mixed`` precision and DDP.
        dtype: The dtype of the parameters. ``bfloat16`` halves their memory and that of the gradients, and needs an
            optimizer with stochastic rounding. Mixed precision is set with ``trainer.precision``.
        trust_remote_code: Whether code that comes with the model or its tokenizer may run on this machine.
        gather_dtype: Under FSDP2, the dtype in which a block's parameters are gathered and computed with.
            ``bfloat16`` halves the traffic of float32 parameters. Null: their own dtype, so that the numbers are those
            of one process.
        reduce_dtype: Under FSDP2, the dtype in which gradients are summed over processes. ``bfloat16`` halves the
            traffic and loses digits of the sum.

    Attributes:
        estimated_device_type: The type of device that ``recipes.estimate`` counts for; None in a run.
        offloading: What moves activations to the host; None if nothing does.
        monitor: The metric that chooses the best checkpoint.
        monitor_mode: ``max`` if a higher value is better, ``min`` if a lower one is.
        data_class: The class of the task's data.
        auto_class: The class of transformers that loads the model, such as ``AutoModelForCausalLM``.
        model: The model; None until Lightning calls :meth:`configure_model`.
        history: Losses, evaluations and seconds, for the report.
        run_callbacks: The task's callbacks.
    """

    monitor: ClassVar[str] = "val/loss"
    monitor_mode: ClassVar[Literal["min", "max"]] = "min"
    data_class: ClassVar[type[RecipeData]]
    auto_class: ClassVar[str] = "AutoModel"

    def __init__(
        self,
        optimizer: OptimizerCallable,
        pretrained: str | None = None,
        schedule: Schedule | None = "linear",
        warmup: NonNegativeFloat = 0.06,
        schedule_args: dict[str, Any] | None = None,
        layer_lr_decay: FractionAbove0 = 1.0,
        freeze: Frozen | None = None,
        gradient_checkpointing: bool = False,
        activation_offload: bool = False,
        gradient_release: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
        trust_remote_code: bool = False,
        gather_dtype: Literal["float32", "bfloat16"] | None = None,
        reduce_dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        if freeze is not None and pretrained is None:
            raise RecipeError(
                f"model.freeze is {freeze}, but model.pretrained is null, so there are no values to keep: set "
                "model.freeze to null"
            )
        self.save_hyperparameters(ignore=["optimizer"])  # weights_only loading would refuse a callable
        self.optimizer = optimizer
        self.pretrained = None if pretrained is None else os.path.expanduser(pretrained)
        self.schedule = schedule
        self.warmup = warmup
        self.schedule_args = schedule_args
        self.layer_lr_decay = layer_lr_decay
        self.freeze_up_to = freeze
        self.gradient_checkpointing = gradient_checkpointing
        self.activation_offload = activation_offload
        self.gradient_release = gradient_release
        self.dtype_name = dtype
        self.trust_remote_code = trust_remote_code
        self.gather_dtype = gather_dtype
        self.reduce_dtype = reduce_dtype
        self.history = RunHistory()
        self.run_callbacks: list[Callback] = [self.history]
        self.estimated_device_type: str | None = None
        self.offloading: Offloading | None = None
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
        """The task's callbacks. Lightning calls this first, so it also tells the data which model to tokenize for."""
        refuse_for_recipe(self.trainer)
        self.data.tokenize_for(self.pretrained, self.trust_remote_code)
        present = self.trainer.callbacks  # type: ignore[attr-defined]
        callbacks = [callback for callback in self.run_callbacks if callback not in present]
        if self.gradient_release and self.trainer.state.fn == TrainerFn.FITTING:
            refuse_for_release(self.trainer, self)
            if not any(isinstance(callback, GradientRelease) for callback in present):
                callbacks.append(GradientRelease())
        for callback in (*present, *callbacks):
            if isinstance(callback, GradientRelease):
                callback.clipping_follows_trainer = True
        return callbacks

    def configure_model(self) -> None:
        """Loads the model, once; under a strategy with a device mesh, each process gets its part of it."""
        if self.model is not None:
            return
        if self.device_mesh is None:
            self.model = self.make_model(self.data, weights=True)
            if self.activation_offload:
                self.offloading = offload_activations(self.model)
            return
        if self.activation_offload:
            raise RecipeError(
                "model.activation_offload is true, which is not supported where processes shard the model: set it to "
                "false, and model.gradient_checkpointing to true"
            )
        gathered = None if self.gather_dtype is None else getattr(torch, self.gather_dtype)
        policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=getattr(torch, self.reduce_dtype))
        device = self.trainer.strategy.root_device
        self.model = sharded_model(partial(self.make_model, self.data), self.device_mesh, device, policy)

    def build_on_meta(self, data: Data) -> None:
        """Builds the model of :meth:`configure_model` without weights, on the meta device.

        Args:
            data: What the model's shape depends on, such as the labels; no text is tokenized.
        """
        data.tokenize_for(self.pretrained, self.trust_remote_code)
        data.inspect()
        with torch.device("meta"):
            self.model = self.make_model(data, weights=False).train()
        self.offloading = offload_activations(self.model, self.estimated_device_type)
        self.offloading.enabled = self.activation_offload

    def make_model(self, data: Data, weights: bool) -> nn.Module:
        """Creates the model of :attr:`auto_class` with the configuration of :meth:`model_config`.

        Args:
            data: The data, with its labels and tokenizer loaded.
            weights: Whether to load the weights of ``pretrained``; else they are initialized at random.

        Returns:
            The model in train mode.
        """
        import transformers

        auto_class = getattr(transformers, self.auto_class)
        config = self.model_config(data)
        if weights and self.pretrained is not None:
            model = self.load_weights(auto_class, config)
        else:
            dtype = getattr(torch, self.dtype_name)
            model = auto_class.from_config(config, dtype=dtype, trust_remote_code=self.trust_remote_code).train()
        if self.freeze_up_to is not None:
            freeze(model, self.freeze_up_to)
        if self.gradient_checkpointing:
            set_checkpointing(model, self.pretrained)
        return model

    def load_weights(self, auto_class: Any, config: "PretrainedConfig", **kwargs: Any) -> "PreTrainedModel":
        """The model of a class of transformers with the weights of ``pretrained``, in train mode.

        Args:
            auto_class: The class, or an ``Auto`` class.
            config: The configuration.
            kwargs: More arguments of the model's class.
        """
        assert self.pretrained is not None
        key = "model.pretrained"
        folder = as_folder(self.pretrained, key)
        return load_model(auto_class, folder, key, config, self.dtype_name, self.trust_remote_code, **kwargs)

    def model_config(self, data: Data) -> "PretrainedConfig":
        """The configuration of the model for this data; by default that of ``pretrained``.

        Args:
            data: The data, with its labels and tokenizer loaded.
        """
        return self.load_config()

    def load_config(self, **changes: Any) -> "PretrainedConfig":
        """The configuration of ``pretrained`` with changed values; no weights are read.

        Raises:
            RecipeError: There is none, or it cannot be read.
        """
        assert self.pretrained is not None, "a task without pretrained has a model_config of its own"
        key = "model.pretrained"
        location = config_location(self.pretrained, key)
        return load_config(key=key, trust_remote_code=self.trust_remote_code, **location, **changes)

    def before_training(self, trainer: Trainer, data: Data) -> None:
        """Called before the first step of a run that is not resumed, for example to evaluate the untrained model.

        Args:
            trainer: The trainer.
            data: The data.
        """

    def report_details(self) -> dict[str, Any]:
        """Further keys of ``report.json``."""
        return {}

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        assert self.model is not None
        schedule = (self.schedule, self.warmup, self.schedule_args)
        configured = configure(self.model, self.trainer, self.optimizer, *schedule, self.layer_lr_decay)
        if self.gradient_release:
            refuse_to_release(configured["optimizer"])
        return configured

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients as the trainer is set to; sharded ones by the norm of the whole.

        Lightning calls it before each step, also where nothing is to be clipped.
        """
        if not is_sharded(self):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        sum_gradients(parameters)
        if gradient_clip_val:
            clip = clip_by_value if gradient_clip_algorithm == "value" else clip_by_norm
            clip(parameters, float(gradient_clip_val))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes model and tokenizer in Hugging Face's format.

        If the model is sharded, all processes call this, and the first one writes the full weights.

        Args:
            folder: The folder; created if it does not exist.
        """
        assert self.model is not None
        model: Any = self.model
        if is_sharded(model):
            state = full_state_dict(model)
            if not self.trainer.is_global_zero:
                return
            with torch.device("meta"):
                model = self.make_model(self.data, weights=False)
            model.load_state_dict(state, assign=True)
            model.tie_weights()
            model.generation_config = getattr(self.model, "generation_config", None)
        save(model, self.data.tokenizer, folder)
