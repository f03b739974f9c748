"""Steps parameters during the backward pass, a block at a time, and frees their gradients."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lightning_adafactor.gradient_release.blocks import Block, By, find_blocks
from lightning_adafactor.gradient_release.unsupported import (
    ALREADY_RELEASED,
    ScalerRefusal,
    check_arguments,
    check_optimizer,
    check_processes,
    check_wrappers,
    second_gradient,
    several_processes,
)
from lightning_adafactor.gradient_release.uses import Uses
from lightning_adafactor.memory import StateSize, measure_state
from lightning_adafactor.sharded.layout import local, sum_partial_gradient


def release_gradients(
    optimizer: Optimizer, model: nn.Module, *, by: By = "block", arguments: Any = None
) -> ReleasedGradients:
    """Lets an optimizer step its parameters during the backward pass, block by block, and frees their gradients.

    The training loop stays as it is: zero the gradients, ``loss.backward()``, ``optimizer.step()``, schedule. By the
    time of ``optimizer.step()`` most parameters have been stepped and have no gradient left; it steps the others. The
    numbers are the same, to the bit; where more than two processes share a parameter, sums over them may be added
    up in another order. At any time the complete gradients take at most the bytes of the largest block.

    For transformers' ``Trainer``, call it with the optimizer that the trainer is given and its ``TrainingArguments``
    before ``trainer.train()``; with accelerate, after ``prepare``. In Lightning use
    :class:`~lightning_adafactor.GradientRelease`.

    There must be one backward pass for each ``optimizer.step()``. Whatever reads all gradients between the two finds
    none: clipping by norm or value, which has no effect then, and logging of their norm. A loss that is not finite
    steps the parameters as ever, unless it is shown to :meth:`ReleasedGradients.guard` before the backward pass.

    Args:
        optimizer: An :class:`~lightning_adafactor.Adafactor`, or another optimizer with a method
            ``step_parameters(params)``; perhaps wrapped by accelerate.
        model: The model with its parameters. Parameters of the optimizer that are not in it are blocks of their own.
        by: "block" to step a transformer block, or another module, at a time (see
            :func:`~lightning_adafactor.gradient_release.find_blocks`); "parameter" to step each parameter alone, which
            holds the least memory and takes the most calls.
        arguments: The ``TrainingArguments`` of transformers' ``Trainer``, to be checked for what is not supported.

    Returns:
        A handle; its ``remove()`` ends the release. It is also a context manager.

    Raises:
        ValueError: The optimizer cannot step a part of its parameters, its gradients are released already, or something
            else is not supported: gradients that DDP keeps, accumulation, clipping, a gradient scaler.
    """
    check_wrappers(optimizer, model)
    check_arguments(arguments)
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):  # in accelerate's wrapper
        optimizer = inner
    check_optimizer(optimizer)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    check_processes(params)
    if any(_is_released(param) for param in params):
        raise ValueError(ALREADY_RELEASED)
    return ReleasedGradients(optimizer, model, by)


class ReleasedGradients:
    """Gradients that are released; made by :func:`release_gradients`.

    Args:
        optimizer: The optimizer.
        model: The model.
        by: "block" or "parameter".

    Attributes:
        blocks: The blocks, each with trainable parameters of the optimizer.
        peak: The largest size that the complete gradients have had at a time, on this process.
    """

    def __init__(self, optimizer: Any, model: nn.Module, by: By) -> None:
        self._optimizer = optimizer
        self.blocks = _blocks_of(optimizer, model, by)
        self.peak = StateSize(0, 0)
        self._block = {param: block for block in self.blocks for param in block.params}
        self._largest = max((sum(map(_bytes, block.params)) for block in self.blocks), default=0)
        self._lock = threading.RLock()  # autograd has a thread for each device
        # of this step
        self._received: dict[nn.Parameter, int] = {}
        self._complete: dict[Block, list[nn.Parameter]] = {}  # and not stepped yet, the oldest block first
        self._stepped: set[nn.Parameter] = set()
        self._streams: dict[nn.Parameter, torch.cuda.Stream] = {}  # which wrote the gradients
        self._is_guarded = False

        self._uses = Uses(model, self._block)
        self._handles: list[Any] = [
            self._uses,
            ScalerRefusal(optimizer),
            optimizer.register_step_post_hook(self._after_step),
            *(param.register_post_accumulate_grad_hook(self._on_gradient) for param in self._block),
        ]

    def guard(self, loss: Tensor) -> None:
        """Leaves out the next step where a loss is not finite; to be called before the backward pass.

        Nobody waits for a device. Where several processes train together, a loss that is not finite on one of them
        leaves out the step of all.

        Args:
            loss: The loss.
        """
        found = (~torch.isfinite(loss.detach())).any().float().view(1)
        if several_processes():
            distributed.all_reduce(found, distributed.ReduceOp.MAX)
        self._optimizer.found_inf = found  # where a gradient scaler puts what it has found
        self._is_guarded = True

    def remove(self) -> None:
        """Ends the release; gradients that exist stay for ``optimizer.step()``."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.reset()

    def reset(self) -> None:
        """Forgets a backward pass that an exception has ended, before another one.

        Parameters that it has stepped keep their new values; of the others, clear the gradients yourself.
        """
        self._received.clear()
        self._complete.clear()
        self._stepped.clear()
        self._streams.clear()
        self._uses.reset()
        if self._is_guarded:
            del self._optimizer.found_inf
            self._is_guarded = False

    def __enter__(self) -> ReleasedGradients:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _on_gradient(self, param: nn.Parameter) -> None:
        """Called when a parameter has received a gradient."""
        with self._lock:
            if param in self._stepped:
                raise RuntimeError(second_gradient(tuple(param.shape)))
            received = self._received[param] = self._received.get(param, 0) + 1
            if received != self._uses.expected(param):
                return
            check_processes(self._block)
            if (gradient := _local_gradient(param)).is_cuda:
                self._streams[param] = torch.cuda.current_stream(gradient.device)
            block = self._block[param]
            complete = self._complete.setdefault(block, [])
            complete.append(param)
            if len(complete) == len(block.params):
                self._step(block)
            # a block some of whose parameters are not used in this step is never full
            while sum(_bytes(each) for waiting in self._complete.values() for each in waiting) > self._largest:
                self._step(next(iter(self._complete)))

    def _step(self, block: Block) -> None:
        """Steps what is complete of a block, and frees its gradients."""
        self._measure()
        params = self._complete.pop(block)
        for param in params:
            _wait_for_gradient(param, self._streams.pop(param, None))
            sum_partial_gradient(param)
        self._optimizer.step_parameters(params)
        for param in params:
            param.grad = None
        # autograd then raises an error where it still needs their old values, instead of taking the new ones
        torch.autograd.graph.increment_version(params)
        self._stepped.update(params)

    def _measure(self) -> None:
        gradients = [
            local(param.grad) for params in self._complete.values() for param in params if param.grad is not None
        ]
        held = measure_state([gradients])
        if held.bytes > self.peak.bytes:
            self.peak = held

    def _after_step(self, *_: object) -> None:
        """Called after ``optimizer.step()``, which has stepped the rest."""
        self._measure()
        self.reset()


def _is_released(param: Tensor) -> bool:
    hooks = getattr(param, "_post_accumulate_grad_hooks", None) or {}
    return any(isinstance(getattr(hook, "__self__", None), ReleasedGradients) for hook in hooks.values())


def _local_gradient(param: nn.Parameter) -> Tensor:
    assert param.grad is not None
    return local(param.grad)


def _wait_for_gradient(param: nn.Parameter, written_by: torch.cuda.Stream | None) -> None:
    """Makes the step wait for a gradient that another stream writes, or that is still copied to the CPU.

    Before a fix in torch, FSDP2 with ``CPUOffloadPolicy`` called hooks while its copies, of the current stream, were on
    their way (pytorch/pytorch#180666).
    """
    gradient = _local_gradient(param)
    if written_by is not None:
        current = torch.cuda.current_stream(gradient.device)
        if current != written_by:
            current.wait_stream(written_by)
            gradient.record_stream(current)
    elif isinstance(param, DTensor) and param.device_mesh.device_type == "cuda":
        torch.cuda.current_stream().synchronize()


def _blocks_of(optimizer: Any, model: nn.Module, by: By) -> list[Block]:
    """The blocks of a model's parameters that an optimizer has, and one for each parameter that only it has."""
    params = [param for group in optimizer.param_groups for param in group["params"] if param.requires_grad]
    missing = dict.fromkeys(params)
    blocks = []
    for block in find_blocks(model, by):
        own = tuple(param for param in block.params if param in missing)
        if own:
            blocks.append(Block(block.name, own))
        for param in own:
            del missing[param]
    return [*blocks, *(Block(f"parameter of shape {tuple(param.shape)}", (param,)) for param in missing)]


def _bytes(param: nn.Parameter) -> int:
    """Bytes of a parameter, of all shards together: the same on all processes, which step blocks in the same order."""
    return param.numel() * param.element_size()
