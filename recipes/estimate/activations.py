"""An upper bound on the memory of forward and backward pass beside parameters and optimizer state.

The step runs, forward and backward, on fake tensors: they have a shape and a dtype but no memory. Each storage counts
from the operation that allocates it until its last reference is gone: saved activations, autocast's copies of weights,
logits and temporaries. What a kernel allocates internally is not seen; the factor ``WORKSPACE`` allows for it, and for
the logits of ``linear_cross_entropy`` a formula.
"""

import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightning_adafactor.gradient_release import find_blocks
from recipes.estimate.torch_internals import FakeTensorMode, TorchDispatchMode, tree_leaves

WORKSPACE = 1.1
"""Factor for what kernels allocate internally. In steps of three small models on a CPU, in float32 and bfloat16, with
and without checkpointing, 1.07 was enough."""

PRECISIONS = {
    "32-true": None,
    "bf16-true": None,
    "16-true": None,
    "64-true": None,
    "bf16-mixed": torch.bfloat16,
    "16-mixed": torch.float16,
}
"""The autocast dtype of each ``trainer.precision``; None for no autocast."""

TRUE_DTYPES = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
"""The dtype that a ``trainer.precision`` converts parameters and buffers to."""

CHUNKED_LOSS = "torch_nn::_linear_cross_entropy_batch_chunked"
"""The operation behind ``torch.nn.functional.linear_cross_entropy``, whose logits are internal."""

# Autocast computes these operations in float32 on CUDA, and does not change them on a CPU.
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


@dataclass(frozen=True)
class Peak:
    """The peak memory of forward and backward pass, in bytes beside parameters, buffers and optimizer state.

    Attributes:
        gradients: Bytes of all gradients. Those of the last step live on through the forward pass.
        plain: The peak, gradients included.
        released: The peak with gradient release: the gradients of a block live until all of them are complete.
    """

    gradients: int
    plain: int
    released: int


def peak_bytes(
    module: nn.Module,
    batch: Callable[[], Any],
    step: Callable[[Any], Tensor],
    precision: str,
    gpu: bool,
    dtype: torch.dtype | None = None,
) -> Peak:
    """Computes the peak memory of forward and backward pass.

    Args:
        module: The module, on the meta device. It is left unchanged.
        batch: Makes the batch.
        step: Computes the loss of a batch with ``module``, in training mode.
        precision: The trainer's ``precision``, one of ``PRECISIONS``.
        gpu: Whether to count as on CUDA, where attention with dropout does not keep its matrix of token pairs, and
            autocast computes norms and powers in float32.
        dtype: What the floating-point parameters are held in; None for their own dtypes.

    Returns:
        Upper bounds.
    """
    autocast = PRECISIONS[precision]
    names = {parameter: name for name, parameter in module.named_parameters("module")}
    with FakeTensorMode(allow_non_fake_inputs=True):
        parameters = {
            name: nn.Parameter(fake_like(parameter, dtype), parameter.requires_grad)
            for name, parameter in module.named_parameters("module")
        }
        buffers = {name: fake_like(buffer) for name, buffer in module.named_buffers("module")}
        blocks = [[parameters[names[each]] for each in block.params] for block in find_blocks(module)]
        tracker = LiveBytes([*parameters.values(), *buffers.values()], blocks)
        for block in blocks:
            for parameter in block:
                parameter.register_post_accumulate_grad_hook(tracker.complete)
        gradients = sum(parameter.nbytes for block in blocks for parameter in block)
        forward_peak = 0

        def forward_and_backward() -> None:
            nonlocal forward_peak
            context: AbstractContextManager[Any] = torch.autocast("cpu", autocast) if autocast else nullcontext()
            with tracker, _OnCuda() if gpu else nullcontext():
                with context:
                    loss = step(batch())
                forward_peak = tracker.peak
                # From its edge, not from the tensor: that would suspend _OnCuda, under which checkpointing recomputes.
                torch.autograd.backward(get_gradient_edge(loss), torch.ones_like(loss))

        functional_call(_Called(module, forward_and_backward), parameters | buffers, ())
    plain = max(WORKSPACE * forward_peak + gradients, tracker.peak_with_gradients)
    return Peak(gradients, math.ceil(plain), math.ceil(tracker.peak_with_pending))


def chunked_loss_bytes(hidden: Tensor, weight: Tensor, chunk: int) -> int:
    """What ``linear_cross_entropy`` of torch 2.13 allocates beside the loss and the gradients that it returns.

    Args:
        hidden: Its input, of shape (tokens, features); in low precision, the figure is for CUDA.
        weight: Of the head, of shape (vocabulary, features).
        chunk: Tokens of which it computes the logits at a time, in float32 and in the precision of ``hidden``.
    """
    width = hidden.element_size()
    return (width if width >= 4 else 4 + width) * chunk * sum(weight.shape)


def fake_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor like another, without a gradient, on the CPU; in another dtype if both are floating-point.

    Under ``FakeTensorMode`` it takes no memory.
    """
    dtype = dtype if tensor.is_floating_point() else None
    return torch.empty_like(tensor, dtype=dtype, device="cpu", requires_grad=False)


class _Called(nn.Module):
    """A module whose forward calls a function: ``functional_call`` swaps the parameters of no other function."""

    def __init__(self, module: nn.Module, call: Callable[[], None]) -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self) -> None:
        self.call()


class LiveBytes(TorchDispatchMode):
    """Adds up the live storages, without those of given tensors and of complete gradients.

    Args:
        uncounted: Tensors that do not count.
        blocks: The parameters that gradient release steps together.

    Attributes:
        live: Bytes that are live now.
        peak: The peak of ``live``.
        peak_with_gradients: The peak of ``live`` times ``WORKSPACE``, and the complete gradients.
        peak_with_pending: The same with the gradients of those blocks only that are not complete.
    """

    def __init__(self, uncounted: list[Tensor], blocks: Sequence[Sequence[Tensor]] = ()) -> None:
        super().__init__()
        self.peak = 0
        self.peak_with_gradients = 0.0
        self.peak_with_pending = 0.0
        self.live = 0
        self._gradients = 0
        self._pending = 0
        self._head: torch.Size | None = None  # the shape of the head's weight, once its loss is computed in chunks
        self._block = {parameter: number for number, block in enumerate(blocks) for parameter in block}
        self._missing = [len(block) for block in blocks]
        # By the id of the storage, which is removed before another storage can have it.
        self._sizes = {id(tensor.untyped_storage()): 0 for tensor in uncounted}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # Real gradients of a tied weight are added up in place; fake ones take a third tensor.
        in_place = func.name() == "aten::add.Tensor" and result.shape == self._head
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":  # that stands for the memory of the host
                self._count(leaf.untyped_storage(), in_place)
        if func.name() == CHUNKED_LOSS:
            hidden, weight, chunk = args[0], args[1], args[8]
            self._head = weight.shape
            self._reach(self.live + chunked_loss_bytes(hidden, weight, chunk))
        return result

    def _count(self, storage: torch.UntypedStorage, in_place: bool) -> None:
        key = id(storage)
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        if not in_place:
            self._reach(self.live)
        weakref.finalize(storage, self._release, key)

    def _reach(self, live: int) -> None:
        self.peak = max(self.peak, live)
        self.peak_with_gradients = max(self.peak_with_gradients, WORKSPACE * live + self._gradients)
        self.peak_with_pending = max(self.peak_with_pending, WORKSPACE * live + self._pending)

    def _release(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def complete(self, parameter: Tensor) -> None:
        """Counts a gradient that is complete with the gradients, and frees those of a block that is complete."""
        assert parameter.grad is not None
        key = id(parameter.grad.untyped_storage())
        self.live -= self._sizes[key]
        self._sizes[key] = 0
        self._gradients += parameter.nbytes
        self._pending += parameter.nbytes
        self._reach(self.live)
        number = self._block[parameter]
        self._missing[number] -= 1
        if not self._missing[number]:
            self._pending -= sum(other.nbytes for other, block in self._block.items() if block == number)


class _OnCuda(TorchFunctionMode):
    """Makes operations on a CPU save for the backward pass what they would save on CUDA."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            # On a CPU, with dropout, it saves the matrix of all token pairs.
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs |= {} if len(args) > 4 else {"dropout_p": 0.0}
        elif func in IN_FLOAT32_ON_CUDA and torch.is_autocast_enabled("cpu"):
            low = (torch.bfloat16, torch.float16)
            args = tuple(arg.float() if isinstance(arg, Tensor) and arg.dtype in low else arg for arg in args)
        return func(*args, **kwargs)
