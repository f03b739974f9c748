"""The chunked loss of a head that tensor parallelism divides.

Each process computes the logits of its part of the vocabulary. What a softmax needs of the whole vocabulary, the
largest logit and the sum of exponentials, is reduced over the processes, a few numbers per token. Logits never travel.
As torch's ``linear_cross_entropy`` does, the forward pass computes the gradients of the head and of its input too.
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup, ReduceOp
from torch.distributed.tensor import DTensor, Replicate

from recipes.language_modeling.packing import IGNORED


def parallel_loss(
    hidden: DTensor, weight: DTensor, labels: Tensor, scale: float, dtype: torch.dtype, chunk: int
) -> Tensor:
    """The mean loss per labeled token, in nats; all processes that divide the head call this with the same tokens.

    Args:
        hidden: The input of the head, of shape (..., features), replicated.
        weight: Its weight of shape (vocabulary, features), divided by rows into equal parts.
        labels: One for each row of ``hidden``, flattened; ``IGNORED`` where there is nothing to predict.
        scale: The factor between the head's output and the logits.
        dtype: The dtype of the products of matrices.
        chunk: How many tokens are computed at a time.

    Returns:
        A float32 DTensor of shape (1, 1, 1), replicated; NaN if no token is labeled.
    """
    mesh = hidden.device_mesh
    group = mesh.get_group()
    # All processes compute the whole gradient of the input, so that autograd has nothing to add up.
    own = hidden.to_local(grad_placements=[Replicate()]).flatten(0, -2).to(dtype)
    part = weight.to_local().to(dtype)
    loss = _ParallelLoss.apply(own, part, labels, mesh.get_local_rank() * part.shape[0], group, scale, chunk)
    return DTensor.from_local(loss.reshape(1, 1, 1), mesh, [Replicate()], run_check=False)


def as_output(value: Tensor, hidden: Tensor) -> Tensor:
    """A value in place of the output of a head: a DTensor where its input is one, for tensor parallelism."""
    if not isinstance(hidden, DTensor):
        return value
    return DTensor.from_local(value, hidden.device_mesh, [Replicate()], run_check=False)


class _ParallelLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        first: int,
        group: ProcessGroup,
        scale: float,
        chunk: int,
    ) -> Tensor:
        """The mean loss.

        Args:
            ctx: Keeps the gradients.
            hidden: Of shape (tokens, features).
            weight: This process's rows, of shape (rows, features) and the same dtype.
            labels: Of shape (tokens,).
            first: The token of the first row.
            group: The processes that divide the vocabulary.
            scale: As above.
            chunk: As above.
        """
        count = (labels != IGNORED).sum()
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        of_hidden = torch.empty_like(hidden, dtype=torch.float32)
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                inputs, targets = hidden[start : start + chunk], labels[start : start + chunk]
                logits = (inputs @ weight.T).float().mul_(scale)
                largest = logits.amax(-1)
                distributed.all_reduce(largest, ReduceOp.MAX, group=group)
                logits -= largest[:, None]
                row = targets - first
                is_own = (row >= 0) & (row < len(weight))
                row = row.clamp(0, len(weight) - 1)[:, None]
                picked = torch.where(is_own, logits.gather(1, row)[:, 0], 0.0)
                exponentials = logits.exp_()
                sums = torch.stack([exponentials.sum(-1), picked])
                distributed.all_reduce(sums, group=group)
                counts = targets != IGNORED
                loss += torch.where(counts, sums[0].log() - sums[1], 0.0).sum()
                gradient = exponentials.div_(sums[0][:, None])
                gradient.scatter_add_(1, row, -is_own.float()[:, None])
                gradient.mul_((counts * (scale / count))[:, None])
                gradient = gradient.to(weight.dtype)
                of_hidden[start : start + chunk] = gradient @ weight
                of_weight += gradient.T @ inputs
            distributed.all_reduce(of_hidden, group=group)
        ctx.save_for_backward(of_hidden.to(hidden.dtype), of_weight.to(weight.dtype))
        return loss / count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the forward pass, multiplied by that of the loss."""
        of_hidden, of_weight = ctx.saved_tensors
        return gradient * of_hidden, gradient * of_weight, None, None, None, None, None
