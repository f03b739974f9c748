"""What gradient release does not work with: each a sentence with the reason and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lightning_adafactor.nonfinite import unsupported_for_parts

KEEPS_GRADIENTS = "keeps all gradients until the end of the backward pass, so that none can be released"
SHARD_INSTEAD = "use one process, or FSDP2 (torch.distributed.fsdp.fully_shard, in Lightning ModelParallelStrategy)"
ACCUMULATES = (
    "gradient release steps the parameters in each backward pass, and accumulated gradients would have to be kept "
    "until the last one: set it to 1, with a larger batch in its place"
)
CLIPS = (
    "clipping needs all gradients at once, and gradient release frees each one before the last is there: leave it out, "
    "for Adafactor clips its own updates (threshold d)"
)
SCALES = (
    "a gradient scaler looks at all gradients before the step, and gradient release has taken it by then: use "
    "bfloat16 (in Lightning precision='bf16-mixed'), which needs no scaler"
)
ALREADY_RELEASED = (
    "gradients of this optimizer's parameters are released already: call remove() of what release_gradients returned "
    "before, or use it as a context manager (with release_gradients(optimizer, model): ...)"
)


def check_optimizer(optimizer: Any) -> None:
    """Raises ValueError for an optimizer that cannot step a part of its parameters."""
    if not callable(getattr(optimizer, "step_parameters", None)):
        raise ValueError(
            f"gradient release needs an optimizer that can step a part of its parameters (a method "
            f"step_parameters(params)), which {type(optimizer).__name__} cannot: use lightning_adafactor.Adafactor"
        )
    reason = unsupported_for_parts(optimizer.param_groups)
    if reason is not None:
        raise ValueError(f"{reason}; with gradient release a loss that is not finite need not reach the parameters")


def check_wrappers(optimizer: Any, model: nn.Module) -> None:
    """Raises ValueError for a model in DDP, and for accelerate's optimizer with a gradient scaler."""
    if isinstance(model, DataParallel | DistributedDataParallel):
        raise ValueError(f"{type(model).__name__} {KEEPS_GRADIENTS}: {SHARD_INSTEAD}")
    if getattr(optimizer, "scaler", None) is not None:
        raise ValueError(f"mixed precision is fp16, and {SCALES}")


def check_arguments(arguments: Any) -> None:
    """Raises ValueError for ``TrainingArguments`` of transformers that are not supported; None has no such argument."""
    steps = getattr(arguments, "gradient_accumulation_steps", 1)
    if steps > 1:
        raise ValueError(f"gradient_accumulation_steps is {steps}, and {ACCUMULATES}")
    norm = getattr(arguments, "max_grad_norm", None)
    if norm:
        raise ValueError(f"max_grad_norm is {norm}, and {CLIPS} (max_grad_norm=0)")
    if getattr(arguments, "fp16", False):
        raise ValueError(f"fp16 is True, and {SCALES}")


def several_processes() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def check_processes(params: Iterable[Tensor]) -> None:
    """Raises ValueError where several processes train together and no parameter is sharded by FSDP2."""
    if several_processes() and not any(isinstance(param, DTensor) for param in params):
        raise ValueError(
            f"several processes train together, and what averages their gradients, such as DDP, {KEEPS_GRADIENTS}: "
            f"{SHARD_INSTEAD}"
        )


def second_gradient(shape: tuple[int, ...]) -> str:
    """The message for a gradient that comes after the parameter's step."""
    return (
        f"a parameter of shape {shape} received a gradient after its step: with gradient release, call "
        "optimizer.step() after each backward pass, do not accumulate gradients over several, and set "
        "use_reentrant=False where several checkpoints use a parameter; after an exception in a backward pass, call "
        "reset() of what release_gradients returned"
    )


class ScalerRefusal:
    """Makes a gradient scaler hand over its scale, as to torch's fused optimizers, and raises an error then.

    Args:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._claimed = "_step_supports_amp_scaling" not in vars(optimizer)
        if self._claimed:
            optimizer._step_supports_amp_scaling = True
        self._hook = optimizer.register_step_pre_hook(self._check)

    def remove(self) -> None:
        """Leaves the optimizer as it was."""
        self._hook.remove()
        if self._claimed:
            del self._optimizer._step_supports_amp_scaling

    def _check(self, optimizer: Any, *_: object) -> None:
        if getattr(optimizer, "grad_scale", None) is not None:
            raise RuntimeError(SCALES)
