"""Loss and predictions of a language model in chunks of tokens, so that the logits of a whole batch never exist.

The head of the model is replaced for the time of a forward pass by one that computes the loss, or the logits of one
chunk after another. What the model does before its head stays its own; what it does to the logits afterwards must be a
multiplication, such as Granite's ``logits_scaling``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from recipes.language_modeling.packing import IGNORED
from recipes.language_modeling.parallel_loss import as_output, parallel_loss
from recipes.sharding.model import is_tensor_parallel

CHUNK_BYTES = 128 * 2**20
"""Float32 logits of one chunk. On a CPU, with 49,152 and 576 features, 128 tokens (24 MiB) took the time of all 512 at
once, 64 tokens a tenth more, and the 4 tokens of torch's own choice six times as much."""


def chunk_tokens(vocabulary: int) -> int:
    """Tokens in a chunk, a multiple of 64.

    Args:
        vocabulary: Logits per token.
    """
    return max(64, CHUNK_BYTES // (4 * vocabulary) // 64 * 64)


def fits_one_chunk(model: nn.Module, tokens: int) -> bool:
    """Whether the logits of this many tokens are too few to be worth chunks."""
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    weight = getattr(head, "weight", None)
    return weight is None or tokens <= chunk_tokens(weight.shape[0])


def unsupported_reason(model: nn.Module) -> str | None:
    """Why the loss of a model cannot be computed in chunks, as it is now; None if it can.

    Args:
        model: A causal language model of transformers, with real or sharded weights.
    """
    if not hasattr(functional, "linear_cross_entropy"):
        return f"torch {torch.__version__} has no linear_cross_entropy, which came with torch 2.13"
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Linear):
        return f"the head of {type(model).__name__} is no torch.nn.Linear"
    config: Any = model.config
    if getattr(config.get_text_config(), "final_logit_softcapping", None):
        return f"{type(model).__name__} caps its logits (final_logit_softcapping)"
    if is_tensor_parallel(head.weight) and head.bias is not None:
        return f"tensor parallelism divides the head of {type(model).__name__}, which has a bias"
    kind = head.weight.device.type
    if torch.float16 in (head.weight.dtype, torch.get_autocast_dtype(kind) if _autocasts(kind) else None):
        return "it computes the gradients of the head before the loss is scaled, too small for float16"
    return None


def logit_scale(model: nn.Module, input_ids: Tensor) -> float | None:
    """The factor between the output of a model's head and its logits; None if they are no multiple of it.

    Args:
        model: The model, with its weights; its random state is left unchanged.
        input_ids: Tokens of shape (batch, tokens), of which one is read.
    """
    values = torch.tensor([[[1.0, 2.0, 4.0]]], device=input_ids.device)
    training = model.training
    model.eval()  # gradient release takes forward passes in training mode for parts of the step
    with torch.no_grad(), isolate_rng():
        logits = _with_head(model, input_ids[:1, :1], lambda hidden: as_output(values, hidden))
    model.train(training)
    scale = float(logits.flatten()[0])
    return scale if scale and torch.allclose(logits.float(), scale * values, rtol=1e-5) else None


def chunked_loss(
    model: nn.Module, input_ids: Tensor, labels: Tensor, scale: float = 1.0, device_type: str | None = None
) -> Tensor:
    """The mean loss per labeled token, in nats, with torch's ``linear_cross_entropy``.

    Its forward pass also computes the gradients of the head and of its input. On a CPU it computes in float32, as torch
    multiplies low precision there in any case. Elsewhere matrices have the dtype of the weight or of autocast, sums are
    in float32, and loss and gradients are rounded to the dtype of the matrices.

    Args:
        model: The model.
        input_ids: Tokens of shape (batch, tokens).
        labels: Of the same shape, ``IGNORED`` where there is nothing to predict.
        scale: The model's :func:`logit_scale`.
        device_type: Compute as on this type of device; by default as on that of the tokens.

    Returns:
        A float32 scalar; NaN if no token is labeled.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]

    def loss_of(hidden: Tensor) -> Tensor:
        weight, bias = head.weight, head.bias
        kind = hidden.device.type
        if (device_type or kind) == "cpu":
            dtype = torch.promote_types(weight.dtype, torch.float32)
        else:
            dtype = torch.get_autocast_dtype(kind) if _autocasts(kind) else weight.dtype
        if isinstance(hidden, DTensor):  # and so is the weight: both of tensor parallelism, for FSDP has gathered it
            chunk = chunk_tokens(weight.to_local().shape[0])
            return parallel_loss(hidden, weight, labels.flatten(), scale, dtype, chunk)
        hidden = hidden.flatten(0, -2).to(dtype)
        loss = functional.linear_cross_entropy(
            hidden if scale == 1 else scale * hidden,
            weight.to(dtype),
            labels.flatten(),
            linear_bias=None if bias is None else (bias if scale == 1 else scale * bias).to(dtype),
            ignore_index=IGNORED,
            options=nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_tokens(weight.shape[0])),
        )
        return loss.float().reshape(1, 1, 1)

    # The loss leaves the model as its logits: FSDP prepares the backward pass through what a model returns.
    logits = _with_head(model, input_ids, loss_of).float().reshape(())
    return logits if scale == 1 else logits / scale


def evaluate_chunked(
    model: nn.Module, input_ids: Tensor, labels: Tensor, update: Callable[[Tensor, Tensor], None], scale: float = 1.0
) -> None:
    """Passes the logits and labels of each chunk to ``update``, without gradients.

    Args:
        model: The model.
        input_ids: Tokens of shape (batch, tokens).
        labels: Of the same shape.
        update: Takes logits of shape (tokens of the chunk, vocabulary) and labels of shape (tokens of the chunk,).
        scale: The model's :func:`logit_scale`.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    own_forward = head.forward

    def evaluate(hidden: Tensor) -> Tensor:
        size = chunk_tokens(head.weight.shape[0])
        for part, targets in zip(hidden.flatten(0, -2).split(size), labels.flatten().split(size), strict=True):
            logits = own_forward(part)
            if isinstance(logits, DTensor):
                logits = logits.full_tensor()
            update(logits if scale == 1 else scale * logits, targets)
        return as_output(targets.new_zeros(1, 1, 1, dtype=torch.float32), hidden)

    with torch.no_grad():
        _with_head(model, input_ids, evaluate)


def _with_head(model: nn.Module, input_ids: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """The logits of a model whose head is a function of its input, the hidden states."""
    with _replaced(model.get_output_embeddings(), head):  # type: ignore[operator]
        return model(input_ids=input_ids, use_cache=False).logits


@contextmanager
def _replaced(head: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replaces the forward method of one module, but not its hooks: FSDP gathers the weights in them."""
    attributes: dict[str, Any] = vars(head)
    before = attributes.get("forward")
    attributes["forward"] = function
    try:
        yield
    finally:
        if before is None:
            del attributes["forward"]
        else:
            attributes["forward"] = before


def _autocasts(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
