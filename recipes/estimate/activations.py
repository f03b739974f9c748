"""An upper estimate of what a training step takes beside parameters, gradients and optimizer state.

The step is run, forward and backward, on tensors that have a shape and a dtype but no memory, and every storage is
followed from the operation that makes it until nothing holds it any more. What is counted is what the operations
hand out: kept activations, autocast's copies of weights, logits, and whatever lives for a moment on the way. What a
kernel takes for itself is not seen, and allowed for by ``WORKSPACE``.
"""

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WORKSPACE = 1.1
"""Kernels' own memory, as a factor: up to 1.07 made up for it in steps of three small models on a CPU, in float32 and
bfloat16, with and without checkpointing."""

PRECISIONS = {
    "32-true": None,
    "bf16-true": None,
    "16-true": None,
    "64-true": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}
"""What autocast computes in under ``trainer.precision``; None for no autocast."""

TRUE_DTYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
"""What ``trainer.precision`` turns parameters and buffers into."""

# The operations that autocast computes in float32 on CUDA, and leaves alone on a CPU.
IN_FLOAT32_ON_CUDA = {
    getattr(owner, name)
    for owner in (torch, Tensor, functional)
    for name in (
        *("__pow__", "cross_entropy", "cumprod", "cumsum", "exp", "group_norm", "kl_div", "layer_norm", "log"),
        *("log_softmax", "mse_loss", "nll_loss", "norm", "normalize", "pow", "prod", "reciprocal", "rsqrt"),
        *("softmax", "softplus", "sum"),
    )
    if hasattr(owner, name)
}


def peak_bytes(
    module: nn.Module, batch: Callable[[], Any], step: Callable[[Any], Tensor], precision: str, gpu: bool
) -> int:
    """Computes the most that a training step holds beside parameters, buffers, gradients and state.

    Args:
        module: The module whose parameters and buffers are on the meta device; they are left as they are.
        batch: Makes the batch.
        step: Computes the loss of a batch with ``module``, in training mode.
        precision: The trainer's ``precision``, one of ``PRECISIONS``.
        gpu: Whether to count as on CUDA, where attention with dropout is computed without keeping its matrix, and
            autocast computes norms and powers in float32.

    Returns:
        Bytes, an estimate from above.
    """
    autocast = PRECISIONS[precision]
    with FakeTensorMode(allow_non_fake_inputs=True), _in_memory(module) as own:
        tracker = LiveBytes(own)
        hooks = [
            parameter.register_post_accumulate_grad_hook(tracker.forget_gradient)
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        context: AbstractContextManager[Any] = torch.autocast("cpu", autocast) if autocast else nullcontext()
        try:
            with tracker, _OnCuda() if gpu else nullcontext():
                with context:
                    loss = step(batch())
                _backward(loss)
        finally:
            for hook in hooks:
                hook.remove()
            for parameter in module.parameters():
                parameter.grad = None
    return math.ceil(WORKSPACE * tracker.peak)


def _backward(loss: Tensor) -> None:
    """``loss.backward()``, which would take modes of torch functions off, and checkpointing computes forward again."""
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


@contextmanager
def _in_memory(module: nn.Module) -> Iterator[list[Tensor]]:
    """Puts tensors on a CPU, without memory, in place of those on meta; yields them, and puts the old ones back."""
    replaced: list[tuple[dict[str, Any], str, Tensor]] = []
    new: dict[int, Tensor] = {}
    for part in module.modules():
        stores: tuple[dict[str, Any], ...] = (part._parameters, part._buffers)
        for tensors in stores:
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                replaced.append((tensors, name, tensor))
                if id(tensor) not in new:  # tied weights stay one
                    fake = torch.empty_like(tensor, device="cpu", requires_grad=False)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    new[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
    for tensors, name, tensor in replaced:
        tensors[name] = new[id(tensor)]
    try:
        yield list(new.values())
    finally:
        for tensors, name, tensor in replaced:
            tensors[name] = tensor


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that are alive; some tensors' and gradients that have come to rest do not count.

    Args:
        uncounted: Tensors that do not count.

    Attributes:
        live: Bytes that are alive now.
        peak: The most that were.
    """

    def __init__(self, uncounted: list[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self.live = 0
        # by the address of the storage, which is taken out before another can have it
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in uncounted}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, storage._cdata)

    def _release(self, address: int) -> None:
        self.live -= self._sizes.pop(address)

    def forget_gradient(self, parameter: Tensor) -> None:
        """Counts a gradient no longer that is complete."""
        assert parameter.grad is not None
        address = parameter.grad.untyped_storage()._cdata
        self.live -= self._sizes[address]
        self._sizes[address] = 0


class _OnCuda(TorchFunctionMode):
    """Lets a CPU's operations keep what CUDA's would keep."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            # on a CPU dropout alone makes it keep the matrix of all pairs of tokens
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs |= {} if len(args) > 4 else {"dropout_p": 0.0}
        elif func in IN_FLOAT32_ON_CUDA and torch.is_autocast_enabled("cpu"):
            low = (torch.bfloat16, torch.float16)
            args = tuple(arg.float() if isinstance(arg, Tensor) and arg.dtype in low else arg for arg in args)
        return func(*args, **kwargs)
