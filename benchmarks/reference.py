"""Checks that an optimizer computes its rule, before it is timed.

The reference is the same rule in float64: for Adafactor this project's plain path, which torch's and
transformers' implementations are checked against too, and so check it; for AdamW torch's for-loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.candidates import Candidate
from benchmarks.problem import Problem
from benchmarks.shapes import Model, reduced
from lightning_adafactor import Adafactor, TransformersAdafactor

LIMITS = {torch.float32: 2e-4, torch.bfloat16: 2e-2}
"""The largest relative error of an update in three steps, by the parameters' dtype."""

STEPS = 3
LR = 1.0
"""So large that updates stand out from bfloat16's rounding of the parameters."""


class WrongNumbersError(Exception):
    """An optimizer does not compute its rule; the message is one sentence."""


def check(candidate: Candidate, model: Model, device: torch.device, dtype: torch.dtype) -> float:
    """Takes three steps on reduced shapes and compares with float64.

    Gradients change from step to step. Those of a lookup table are zero except for some rows, and those of the
    last matrix are so small that Adafactor's floors are active.

    Args:
        candidate: The optimizer.
        model: The model whose shapes are reduced.
        device: Device of the parameters.
        dtype: Of parameters and gradients.

    Returns:
        The largest ‖p - p*‖ / ‖p* - p₀‖ of all parameters, p* being the reference and p₀ the start.

    Raises:
        WrongNumbersError: It is above the limit of the dtype or of the candidate.
    """
    problem = Problem(reduced(model), device, dtype)
    start = [parameter.detach().double() for parameter in problem.parameters]
    exact = [torch.nn.Parameter(values.clone()) for values in start]
    steps = candidate.start(problem.parameters, lr=LR)
    reference = _reference(candidate, exact, dtype)
    base = _first_gradients(problem, dtype)
    generator = torch.Generator(device).manual_seed(1)
    for number in range(STEPS):
        for parameter, twin, gradient in zip(problem.parameters, exact, base, strict=True):
            assert parameter.grad is not None
            noise = torch.empty_like(gradient).uniform_(0.5, 1.5, generator=generator)
            parameter.grad.copy_(gradient * noise / (number + 1))
            twin.grad = parameter.grad.double()
        steps()
        reference.step()
    error = _largest_error(problem.parameters, exact, start)
    limit = LIMITS[dtype] if candidate.limit is None else candidate.limit
    if not error <= limit:
        raise WrongNumbersError(
            f"{candidate.name} is wrong: after {STEPS} steps in {str(dtype).removeprefix('torch.')} its "
            f"updates are off by {error:.1e} relative to float64, where {limit:.0e} is allowed."
        )
    return error


def _first_gradients(problem: Problem, dtype: torch.dtype) -> list[Tensor]:
    """Gradients of standard deviation 1, and for the last matrix of the dtype's machine epsilon."""
    gradients = []
    for parameter in problem.parameters:
        assert parameter.grad is not None
        gradients.append(parameter.grad.div(parameter.grad.float().std(correction=0).to(parameter.dtype)))
    matrices = [gradient for gradient in gradients if gradient.dim() == 2]
    matrices[-1].mul_(torch.finfo(dtype).eps)
    return gradients


def _reference(candidate: Candidate, parameters: Sequence[torch.nn.Parameter], dtype: torch.dtype) -> Optimizer:
    if candidate.rule == "adamw":
        return torch.optim.AdamW(parameters, lr=LR, foreach=False, fused=False)
    switches = {key: candidate.arguments[key] for key in _SWITCHES if key in candidate.arguments}
    if candidate.rule == "transformers":
        return TransformersAdafactor(parameters, lr=LR, **switches)
    # ε₁ is by default the machine epsilon of the arithmetic in ours, of the parameters' dtype in torch's
    eps: Any = (torch.finfo(torch.float32 if candidate.ours else dtype).eps, 1e-3)
    return Adafactor(parameters, lr=LR, eps=eps, **switches)


_SWITCHES = ("scale_parameter", "relative_step")


def _largest_error(parameters: Sequence[Tensor], exact: Sequence[Tensor], start: Sequence[Tensor]) -> float:
    """NaN, if there is any, is larger than all numbers."""
    errors = [
        (torch.linalg.vector_norm(parameter.detach().double() - twin) / torch.linalg.vector_norm(twin - origin))
        for parameter, twin, origin in zip(parameters, exact, start, strict=True)
    ]
    return torch.stack(errors).amax().item()
