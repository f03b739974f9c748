"""The rule of Adafactor as numbers: one parameter group's options, and the scalars of step t that follow from them.

Every implementation of the step takes its schedules from here, or is tested against the same table. Symbols are those
of Shazeer & Stern 2018 (arXiv 1804.04235): t counts from 1, G is the gradient, R and C the row and column averages of
G², V the average itself where a parameter is not factored, U = G/√V̂ the unclipped update, d the clip threshold,
ρ the relative step size, α the step size and λ the weight decay. The averages of G² decay by β̂₂ₜ; ω = 1 - β̂₂ₜ.

The scalars of a step. A row per option that changes the formula; kernels compute them in ``fused/kernels/scalars.py``,
and ``tests/lightning_adafactor/scalars.py`` states the same table in float64 for both to be tested against:

================  ========  ==================================  ==================================================
scalar            symbol    formula                             where
================  ========  ==================================  ==================================================
omega             ω         t^beta2_decay                       always (§7.2: β̂₂ₜ = 1 - t^-0.8)
rho               ρ         lr                                  ``relative_step=False``
..                          min(lr, 1/√t)                       ``relative_step``
..                          min(lr, 1/√t, 1e-6·t)               ``relative_step`` and ``warmup_init``
alpha             α         ρ                                   ``scale_parameter=False``
..                          max(ε₂, RMS(p))·ρ                   ``scale_parameter``; ε₂·ρ if RMS(p) is NaN
clip                        max(1, RMS(U)/d)                    always (§6); 1 if RMS(U) is NaN
update_scale                α/clip                              ``maximize=False``
..                          -α/clip                             ``maximize``
decay_factor                1 - lr·λ                            torch's dialect
..                          1 - α·λ                             transformers' dialect
epsilon1          ε₁        eps1                                ``eps1`` given
..                          finfo(dtype of the arithmetic).eps  ``eps1=None``
added_to_squares            0                                   torch's dialect
..                          ε₁                                  transformers' dialect
mean_floor                  ε₁                                  torch's dialect
..                          0                                   transformers' dialect
variance_floor              mean_floor²                         always
================  ========  ==================================  ==================================================

With these, for each average A of G² (R, C or V) and each parameter p::

    A ← (1-ω)·A + ω·mean(G² + added_to_squares)
    V̂ = max(R·C / max(mean(R), mean_floor), variance_floor)   or   max(V, variance_floor)
    p ← decay_factor·p - update_scale·G/√V̂

The two dialects also differ in the cap of ρ (``lr`` in torch's, 1e-2 in transformers', which is passed as ``lr``) and
in the default of ε₁: None in torch's, 1e-30 in transformers'. The arithmetic is float32 (float64 for float64
parameters) whatever the parameter's dtype, so None is 1.2e-7 for bfloat16 and float16 parameters too. torch itself
takes finfo(parameter's dtype).eps, which for bfloat16 is 7.8e-3 and damps every smaller gradient: at 1e-3 a parameter
moves 8 times too little.
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
        beta2_decay: The exponent of t in ω = 1 - β̂₂ₜ, the weight of the newest G² in the averages (§7.2 of the paper).
        eps1: ε₁; None takes the machine epsilon of each parameter's arithmetic, ``finfo(state_dtype(param)).eps``.
        eps2: ε₂, the smallest RMS(p) that α is multiplied by.
        d: The clip threshold: U is scaled down so that RMS(U) ≤ d.
        weight_decay: λ, decoupled from the gradient.
        maximize: Ascend instead of descend.
        scale_parameter: Multiply α by max(ε₂, RMS(p)).
        relative_step: ρ = min(lr, 1/√t) instead of ρ = lr.
        warmup_init: With ``relative_step``, also ρ ≤ 1e-6·t.
        beta1: Decay factor of the average of updates (momentum); None for no such average.
        dialect: Whose meaning of ε₁ and weight decay, see the module's table.
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
        """ω = 1 - β̂₂ₜ, the weight of the newest G²; 1 at t = 1, so that the first step overwrites the state."""
        return t**self.beta2_decay

    def rho(self, t: float) -> float:
        """ρ, the step size before parameter scaling."""
        lr = float(self.lr)
        if not self.relative_step:
            return lr
        return min(lr, t**-0.5, 1e-6 * t) if self.warmup_init else min(lr, t**-0.5)

    def alpha(self, t: float, rms: float) -> float:
        """α, the step size of a parameter whose RMS before the step is ``rms`` (ignored without scaling)."""
        return max(self.eps2, rms) * self.rho(t) if self.scale_parameter else self.rho(t)

    def clip(self, rms_of_update: float) -> float:
        """What U is divided by, so that RMS(U) ≤ d."""
        return max(1.0, rms_of_update / self.d)

    def update_scale(self, alpha: float, rms_of_update: float) -> float:
        """What U is multiplied by before it is subtracted from the parameter: α/clip, negative to maximize."""
        scale = alpha / self.clip(rms_of_update)
        return -scale if self.maximize else scale

    def decay_factor(self, alpha: float) -> float:
        """What weight decay multiplies the parameter by: 1 - lr·λ or 1 - α·λ, by dialect."""
        return 1.0 - self.weight_decay * (float(self.lr) if self.dialect == "torch" else alpha)

    def epsilon1(self, param: Tensor) -> float:
        """ε₁ for this parameter (see ``eps1``)."""
        return torch.finfo(state_dtype(param)).eps if self.eps1 is None else self.eps1

    def added_to_squares(self, param: Tensor) -> float:
        """What is added to G² before it is averaged: ε₁ or 0, by dialect."""
        return self.epsilon1(param) if self.dialect == "transformers" else 0.0

    def mean_floor(self, param: Tensor) -> float:
        """The smallest mean(R) that V̂ is divided by: ε₁, or 0 for no floor, by dialect."""
        return self.epsilon1(param) if self.dialect == "torch" else 0.0

    def variance_floor(self, param: Tensor) -> float:
        """The smallest V̂: ε₁², or 0 for no floor, by dialect."""
        return self.mean_floor(param) ** 2

    def rounds_stochastically(self, param: Tensor) -> bool:
        """Whether this parameter is rounded stochastically: bfloat16 only, all others are rounded to nearest."""
        return self.stochastic_rounding and param.dtype == torch.bfloat16
