"""Parameters and gradients for the optimizers, distributed like those of fine-tuning."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.shapes import Model, Shape

PARAMETER_STD = 0.02
GRADIENT_STD = 1e-4
"""That of 66M elements whose norm is clipped to 1."""
TOUCHED_ROWS = 0.05
"""The share of a lookup table's rows that have a gradient."""


class Problem:
    """Parameters with gradients, shared by all optimizers: the time of a step does not depend on the values.

    Parameters are normal with standard deviation 0.02, gradients normal with 1e-4. A lookup table's gradient
    is zero except for 5 % of its rows.

    Args:
        model: The shapes.
        device: Device of the parameters.
        dtype: Of parameters and gradients.
        seed: Of the random numbers.

    Attributes:
        parameters: The parameters, each with its ``grad``, whose memory stays the same.
    """

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._tables: list[tuple[Tensor, Tensor]] = []
        self.parameters: list[torch.nn.Parameter] = []
        for shape in model.shapes:
            parameter = torch.nn.Parameter(torch.empty(shape.size, device=device, dtype=dtype))
            parameter.grad = torch.zeros_like(parameter)
            with torch.no_grad():
                parameter.normal_(std=PARAMETER_STD, generator=self._generator)
            self._first_gradient(shape, parameter.grad)
            self.parameters.append(parameter)

    @property
    def elements(self) -> int:
        """How many numbers all parameters hold."""
        return sum(parameter.numel() for parameter in self.parameters)

    @property
    def bytes(self) -> int:
        """How many bytes all parameters take."""
        return sum(parameter.nbytes for parameter in self.parameters)

    def touch_other_rows(self) -> None:
        """Gives other rows of the lookup tables a gradient, as another batch would."""
        for gradient, rows in self._tables:
            gradient[rows] = 0
            self._draw(rows, gradient)

    def _first_gradient(self, shape: Shape, gradient: Tensor) -> None:
        if not shape.lookup:
            gradient.normal_(std=GRADIENT_STD, generator=self._generator)
            return
        rows = torch.empty(math.ceil(TOUCHED_ROWS * len(gradient)), dtype=torch.int64, device=gradient.device)
        self._draw(rows, gradient)
        self._tables.append((gradient, rows))

    def _draw(self, rows: Tensor, gradient: Tensor) -> None:
        rows.random_(len(gradient), generator=self._generator)
        values = torch.empty(len(rows), *gradient.shape[1:], device=gradient.device, dtype=gradient.dtype)
        gradient[rows] = values.normal_(std=GRADIENT_STD, generator=self._generator)
