"""What one step needs of one parameter: the input of every implementation of the step."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from lightning_adafactor.rule import Rule
from lightning_adafactor.tiles import Region


@dataclasses.dataclass(slots=True, eq=False)  # compared by identity
class Entry:
    """One parameter with its gradient, state and options, dimensions in the order of its memory.

    The rule is symmetric in rows and columns except for mean(R). So a parameter whose last two dimensions are
    transposed in memory is processed as its transpose, with R and C swapped: reads stay contiguous, and all
    implementations number elements alike, which their random bits depend on.

    Attributes:
        param: The parameter, shape (..., n, m), or (m,) or () for one that is not factored. Any float dtype.
        grad: Its gradient; same shape, possibly another dtype or other strides.
        step: t, the number of steps taken; one element.
        row_var: R, shape (..., n, 1): averages of G² along m. None if not factored. float32/float64 like all state.
        col_var: C, shape (..., 1, m): averages of G² along n. None if not factored.
        variance: V, the parameter's shape. None if factored.
        exp_avg: The average of updates with momentum (``beta1``), the parameter's shape; else None.
        rms: Where RMS(p) of this step is recorded; one element, or None.
        index: The parameter's position in the optimizer, a part of the key of its random bits.
        rule: Its group's options.
        transposed: Whether the last two dimensions of all tensors here are swapped relative to the parameter's own.
        region: Where ``param`` lies in the parameter, if it is a shard; None for the whole parameter. The random bits
            of an element depend on its place in the whole.
    """

    param: Tensor
    grad: Tensor
    step: Tensor
    row_var: Tensor | None
    col_var: Tensor | None
    variance: Tensor | None
    exp_avg: Tensor | None
    rms: Tensor | None
    index: int
    rule: Rule
    transposed: bool = False
    region: Region | None = None

    @classmethod
    def of(
        cls,
        param: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        index: int,
        rule: Rule,
        *,
        transposed: bool | None = None,
    ) -> Entry:
        """Collects a parameter, its gradient and its state (torch's names), dimensions in memory order.

        Args:
            param: The parameter.
            grad: Its gradient.
            state: Its state.
            index: Its position in the optimizer.
            rule: Its group's options.
            transposed: Whether to swap the last two dimensions; None decides by the parameter's strides.
        """
        row_var, col_var, exp_avg = state.get("row_var"), state.get("col_var"), state.get("exp_avg")
        grad = grad.resolve_neg()  # a view such as ``z.conj().imag``, whose memory holds the opposite sign
        if transposed is None:
            transposed = is_transposed(param)
        if transposed and row_var is not None and col_var is not None:
            param, grad = param.mT, grad.mT
            row_var, col_var = col_var.mT, row_var.mT
            exp_avg = None if exp_avg is None else exp_avg.mT
        variance, rms = state.get("variance"), state.get("RMS")
        step = state["step"]
        return cls(param, grad, step, row_var, col_var, variance, exp_avg, rms, index, rule, transposed)

    def release_gradient(self) -> None:
        """Drops the gradient of an entry that is kept, so that ``zero_grad`` frees its memory."""
        self.grad = _RELEASED

    @property
    def factored(self) -> bool:
        """Whether second moments are kept as R and C rather than per element."""
        return self.row_var is not None

    def mean_of_rows(self) -> Tensor:
        """mean(R) over n, of each matrix, shape (..., 1, 1); always of the parameter's own R, swapped or not."""
        assert self.row_var is not None
        assert self.col_var is not None
        if self.transposed:
            return self.col_var.mean(dim=-1, keepdim=True)
        return self.row_var.mean(dim=-2, keepdim=True)


def is_transposed(param: Tensor) -> bool:
    """Whether the last two dimensions of a parameter are swapped in memory."""
    return param.dim() > 1 and param.stride(-2) < param.stride(-1) and param.size(-2) > 1


_RELEASED = torch.empty(0, device="cpu")
