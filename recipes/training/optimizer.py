"""The optimizer of a recipe: parameter groups with and without weight decay, and a learning-rate schedule."""

from collections.abc import Callable
from functools import partial
from inspect import isclass
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim import Optimizer

from recipes.messages import RecipeError, tell
from recipes.training.device_support import check_device_support, refuse_device
from recipes.training.layer_rates import named_apart, scale_rates, split_by_layer

Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "warmup_stable_decay",
]

WITHOUT_ARGS = (None, "constant", "constant_with_warmup")
"""Schedules that take no ``schedule_args``: transformers would ignore them."""

# The names that transformers' Trainer exempts from weight decay.
NO_WEIGHT_DECAY = (r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)")


def parameter_groups(
    model: nn.Module, optimizer: Callable[..., Optimizer] | None = None, layer_lr_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Two groups of the trainable parameters: those with weight decay, and biases and norms without.

    An optimizer whose class has a static method ``split_groups(groups, model)`` splits them further, as those of
    :mod:`recipes.optimizers` do.

    Args:
        model: The model; its frozen parameters are in no group.
        optimizer: Builds the optimizer from parameter groups.
        layer_lr_decay: Below 1, each layer has groups of its own; see :mod:`recipes.training.layer_rates`.

    Returns:
        The groups for the optimizer, without empty ones; biases and norms have ``weight_decay`` 0.
    """
    from transformers.trainer_pt_utils import get_parameter_names

    names = set(get_parameter_names(model, [nn.LayerNorm, nn.RMSNorm], list(NO_WEIGHT_DECAY)))
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in trainable.items() if name in names]},
        {
            "params": [parameter for name, parameter in trainable.items() if name not in names],
            "weight_decay": 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    split = getattr(class_of(optimizer), "split_groups", None)
    if layer_lr_decay == 1.0:
        return split(groups, model) if split else groups
    by_layer = split_by_layer(groups, model, layer_lr_decay)
    return named_apart([split(layer, model) for layer in by_layer] if split else by_layer, by_layer)


def class_of(optimizer: Callable[..., Optimizer] | None) -> type[Optimizer]:
    """The class of the optimizer that a callable makes; ``Optimizer`` itself if it is unknown.

    Args:
        optimizer: A class, or a ``functools.partial`` of one, or of a function whose first argument is one, as
            jsonargparse makes it; any other callable is asked for an optimizer of an empty parameter.
    """
    if optimizer is None:
        return Optimizer
    parts = (optimizer.func, *optimizer.args) if isinstance(optimizer, partial) else (optimizer,)
    for part in parts:
        if isclass(part) and issubclass(part, Optimizer):
            return part
    try:
        return type(optimizer([nn.Parameter(torch.empty(0, 0))]))
    except Exception:  # the optimizer of the model raises it again
        return Optimizer


def configure(
    model: nn.Module,
    trainer: Trainer,
    optimizer: OptimizerCallable,
    schedule: Schedule | None,
    warmup: float,
    schedule_args: dict[str, Any] | None,
    layer_lr_decay: float = 1.0,
) -> dict[str, Any]:
    """Builds the optimizer and, if there is one, its schedule, as ``configure_optimizers`` returns them.

    Args:
        model: The model whose trainable parameters are optimized.
        trainer: Knows the number of optimizer steps.
        optimizer: Builds the optimizer from parameter groups.
        schedule: Name of the schedule; None for the optimizer's own learning rate.
        warmup: Fraction of the steps (below 1) or number of steps over which the learning rate rises to its full
            value.
        schedule_args: More arguments of the schedule.
        layer_lr_decay: The factor from the learning rate of each layer to that of the one below it.

    Raises:
        RecipeError: The optimizer cannot be created or does not support the device, or the schedule needs a number of
            steps that the run does not have, a learning rate that the optimizer does not have, or other arguments.
    """
    groups = parameter_groups(model, optimizer, layer_lr_decay)
    if not groups:
        raise RecipeError("model has no trainable parameters: unfreeze some before the optimizer is created")
    refuse_device(class_of(optimizer), groups[0]["params"][0].device)
    try:
        built: Optimizer = optimizer(groups)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error) or "the library rejected an argument without saying why"
        raise RecipeError(f"model.optimizer cannot be created: {reason}") from error
    check_device_support(optimizer, built)
    if layer_lr_decay != 1.0:
        scale_rates(built, layer_lr_decay)
    if schedule_args and schedule in WITHOUT_ARGS:
        name = "null" if schedule is None else f"'{schedule}'"
        raise RecipeError(
            f"model.schedule_args is {schedule_args}, but model.schedule {name} takes none: set it to null"
        )
    if schedule is None:
        return {"optimizer": built}
    if any(group["lr"] is None for group in built.param_groups):
        raise RecipeError(
            f"model.schedule is '{schedule}', but {type(built).__name__} computes its own learning rate (lr is null): "
            "set model.schedule to null, or give the optimizer an lr"
        )
    from transformers import get_scheduler

    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise RecipeError(
            f"model.schedule is '{schedule}', but the run has no fixed number of steps: set trainer.max_epochs or "
            "trainer.max_steps"
        )
    if warmup >= max(1, steps):
        tell(
            f"model.warmup is {warmup:g} steps and the training has {steps:g}: the learning rate does not reach that "
            "of the optimizer; a number below 1 is a share of the training"
        )
    try:
        scheduler = get_scheduler(
            schedule,
            built,
            num_warmup_steps=round(warmup * steps) if warmup < 1 else int(warmup),
            num_training_steps=int(steps),
            scheduler_specific_kwargs=schedule_args,
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model.schedule_args are not valid for model.schedule '{schedule}': {error}") from error
    return {"optimizer": built, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
