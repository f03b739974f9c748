"""The rule of Adafactor as numbers: one parameter group's options, and the scalars of step t that follow from them.

Every implementation of the step takes its schedules from here, so that they cannot disagree. Symbols are those of
Shazeer & Stern 2018 (arXiv 1804.04235): t counts from 1, G is the gradient, R and C the row and column averages of
G², V the average itself where a parameter is not factored, U = G/√V̂ the unclipped update, d the clip threshold,
ρ the relative step size, α the step size and λ the weight decay.

Two dialects are in use, and they differ in the places that this table names:

=====================  ===============================  =====================================
..                     ``torch.optim.Adafactor``        ``transformers.Adafactor``
=====================  ===============================  =====================================
average of             G²                               G² + ε₁
V̂ = R·C / mean(R)      mean(R) ≥ ε₁, then V̂ ≥ ε₁²       no floors
cap of ρ               lr                               1e-2, or lr itself without relative step
weight decay           p ← p(1 - lr·λ)                  p ← p(1 - α·λ)
ε₁ by default          finfo(dtype of the arithmetic)   1e-30
=====================  ===============================  =====================================

The arithmetic is float32 (float64 for float64 parameters) whatever the parameter's dtype, so ε₁ is by default 1.2e-7
for bfloat16 and float16 parameters too. torch takes finfo(parameter's dtype).eps, which for bfloat16 is 7.8e-3 and
damps every smaller gradient: at 1e-3 a parameter moves 8 times too little.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

Dialect = Literal["torch", "transformers"]


def state_dtype(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's arithmetic and state: float64 for float64 parameters, float32 for all others."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


@dataclasses.dataclass(frozen=True)
class Rule:
    """One parameter group's options, in one vocabulary for both dialects.

    Attributes:
        lr: The step size ρ, or its upper bound with ``relative_step``. A float or a one-element tensor.
        beta2_decay: The exponent τ of ω = t^τ, the weight of the newest G² in the averages (§7.2 of the paper).
        eps1: ε₁; None takes the machine epsilon of each parameter's arithmetic, ``finfo(state_dtype(param)).eps``.
        eps2: ε₂, the smallest RMS(p) that α is multiplied with.
        d: The clip threshold: U is scaled down so that RMS(U) ≤ d.
        weight_decay: λ, decoupled from the gradient.
        maximize: Ascend instead of descend.
        scale_parameter: Multiply α with max(ε₂, RMS(p)).
        relative_step: ρ = min(lr, 1/√t) instead of ρ = lr.
        warmup_init: With ``relative_step``, also ρ ≤ 1e-6·t.
        beta1: Weight of the past in an average of updates (momentum); None for no such average.
        dialect: Whose reading of ε₁ and weight decay, see the module's table.
        stochastic_rounding: Round bfloat16 parameters up or down at random, with the right mean.
        seed: Key of the random numbers of stochastic rounding.
    """

    lr: float | Tensor
    beta2_decay: float = -0.8
    eps1: float | None = None
    eps2: float = 1e-3
    d: float = 1.0
    weight_decay: float = 0.0
    maximize: bool = False
    scale_parameter: bool = True
    relative_step: bool = True
    warmup_init: bool = False
    beta1: float | None = None
    dialect: Dialect = "torch"
    stochastic_rounding: bool = False
    seed: int = 0

    def omega(self, t: float) -> float:
        """ω = t^beta2_decay, the weight of the newest G²; 1 at t = 1, so that the first step overwrites the state."""
        return t**self.beta2_decay

    def rho(self, t: float) -> float:
        """ρ, the step size before parameter scaling."""
        lr = float(self.lr)
        if not self.relative_step:
            return lr
        return min(lr, t**-0.5, 1e-6 * t) if self.warmup_init else min(lr, t**-0.5)

    def alpha(self, t: float, rms: float) -> float:
        """α, the step size of a parameter whose RMS before the step is ``rms`` (not looked at without scaling)."""
        return max(self.eps2, rms) * self.rho(t) if self.scale_parameter else self.rho(t)

    def retained(self, alpha: float) -> float:
        """The factor that weight decay leaves of a parameter: 1 - lr·λ or 1 - α·λ, by dialect."""
        return 1.0 - self.weight_decay * (float(self.lr) if self.dialect == "torch" else alpha)

    def epsilon1(self, param: Tensor) -> float:
        """ε₁ for this parameter (see ``eps1``)."""
        return torch.finfo(state_dtype(param)).eps if self.eps1 is None else self.eps1

    def added_to_squares(self, param: Tensor) -> float:
        """What the dialect adds to G² before it is averaged: ε₁ or nothing."""
        return self.epsilon1(param) if self.dialect == "transformers" else 0.0

    def mean_floor(self, param: Tensor) -> float:
        """The smallest mean(R) that V̂ is divided by: ε₁, or 0 for none."""
        return self.epsilon1(param) if self.dialect == "torch" else 0.0

    def variance_floor(self, param: Tensor) -> float:
        """The smallest V̂: ε₁², or 0 for none."""
        return self.mean_floor(param) ** 2

    def rounds_stochastically(self, param: Tensor) -> bool:
        """Whether this parameter's write-back is rounded at random: bfloat16 only, all others round to nearest."""
        return self.stochastic_rounding and param.dtype == torch.bfloat16
