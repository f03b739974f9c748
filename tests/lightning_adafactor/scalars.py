"""The scalars of a step, as the table in ``lightning_adafactor.rule`` states them: from the options alone, in float64.

Nothing of the library is used here. ``SCALARS`` has a row for each scalar; ``test_rule.py`` holds the Python rule to it
and ``fused/test_scalars.py`` the kernels.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

STEPS = (1, 2, 3, 10, 100, 1_000, 9_999, 10_000, 10_001, 100_000, 999_999, 1_000_000)
"""Steps t. 1e-6·t and 1/√t cross at t = 10⁴."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A step t of a parameter: options of its group, and what was measured. Names are those of ``rule.Rule``.

    Attributes:
        rms: RMS(p) before the step.
        rms_of_update: RMS(U).
        dtype: dtype of the parameter.
    """

    t: int = 1
    dialect: str = "torch"
    lr: float | torch.Tensor = 1e-2
    beta2_decay: float = -0.8
    eps1: float | None = None
    eps2: float = 1e-3
    d: float = 1.0
    weight_decay: float = 0.0
    maximize: bool = False
    scale_parameter: bool = True
    relative_step: bool = True
    warmup_init: bool = False
    dtype: torch.dtype = torch.float32
    rms: float = 1.0
    rms_of_update: float = 1.0

    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``Rule``."""
        measured = ("t", "dtype", "rms", "rms_of_update")
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in measured
        }


VALUES: dict[str, tuple[Any, ...]] = {
    "t": STEPS,
    "dialect": ("torch", "transformers"),
    "lr": (0.0, 1e-5, 1e-2, 0.7, torch.tensor(0.3), torch.tensor(0.3, dtype=torch.float64)),
    "beta2_decay": (0.0, -0.3, -0.8, -1.0),
    "eps1": (None, 1e-30, 1e-3),
    "eps2": (0.0, 1e-3, 2.0),
    "d": (1.0, 1.5),
    "weight_decay": (0.0, 0.1),
    "maximize": (False, True),
    "scale_parameter": (False, True),
    "relative_step": (False, True),
    "warmup_init": (False, True),
    "dtype": (torch.float32, torch.bfloat16, torch.float16),
    # squares of these are exact in float32, which is what kernels have of them
    "rms": (0.0, 2.0**-27, 0.5, 3.0, math.inf, math.nan),
    "rms_of_update": (0.0, 0.5, 1.0, 1.25, 3.0, 300.0, math.inf, math.nan),
}
"""What each option and each measurement may be."""


# Formulas ----------------------------------------------------------------------------------------------------------


def omega(case: Case) -> float:
    return math.pow(case.t, case.beta2_decay)


def rho(case: Case) -> float:
    bounds = [float(case.lr)]
    if case.relative_step:
        bounds.append(1.0 / math.sqrt(case.t))
        if case.warmup_init:
            bounds.append(1e-6 * case.t)
    return min(bounds)


def alpha(case: Case) -> float:
    if not case.scale_parameter:
        return rho(case)
    scale = case.eps2 if math.isnan(case.rms) or case.rms < case.eps2 else case.rms
    return scale * rho(case)


def clip(case: Case) -> float:
    excess = case.rms_of_update / case.d
    return 1.0 if math.isnan(excess) or excess < 1.0 else excess


def update_scale(case: Case) -> float:
    return (-1.0 if case.maximize else 1.0) * alpha(case) / clip(case)


def decay_factor(case: Case) -> float:
    rate = {"torch": float(case.lr), "transformers": alpha(case)}[case.dialect]
    return 1.0 - rate * case.weight_decay


def epsilon1(case: Case) -> float:
    return 2.0**-23 if case.eps1 is None else case.eps1  # of float32, the arithmetic of every dtype here


def added_to_squares(case: Case) -> float:
    return {"torch": 0.0, "transformers": epsilon1(case)}[case.dialect]


def mean_floor(case: Case) -> float:
    return {"torch": epsilon1(case), "transformers": 0.0}[case.dialect]


def variance_floor(case: Case) -> float:
    return mean_floor(case) ** 2


# The table ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A row of the table.

    Attributes:
        symbol: Its symbol in formulas; empty for none.
        formula: Computes it.
        depends_on: The options and measurements that it depends on; all others must not matter.
    """

    symbol: str
    formula: Callable[[Case], float]
    depends_on: tuple[str, ...]


_RHO = ("t", "lr", "relative_step", "warmup_init")
_ALPHA = (*_RHO, "scale_parameter", "eps2", "rms")
_EPSILON1 = ("eps1",)

SCALARS = {
    "omega": Scalar("ω", omega, ("t", "beta2_decay")),
    "rho": Scalar("ρ", rho, _RHO),
    "alpha": Scalar("α", alpha, _ALPHA),
    "clip": Scalar("", clip, ("d", "rms_of_update")),
    "update_scale": Scalar("", update_scale, (*_ALPHA, "d", "rms_of_update", "maximize")),
    "decay_factor": Scalar("", decay_factor, (*_ALPHA, "weight_decay", "dialect")),
    "epsilon1": Scalar("ε₁", epsilon1, _EPSILON1),
    "added_to_squares": Scalar("", added_to_squares, (*_EPSILON1, "dialect")),
    "mean_floor": Scalar("", mean_floor, (*_EPSILON1, "dialect")),
    "variance_floor": Scalar("", variance_floor, (*_EPSILON1, "dialect")),
}


# Cases -------------------------------------------------------------------------------------------------------------

SWITCHES = ("t", "dialect", "maximize", "scale_parameter", "relative_step", "warmup_init")
DRAWS = 8
MANY = 1000


def cases(depends_on: Sequence[str], draws: int = DRAWS) -> Iterator[Case]:
    """Cases for scalars that depend on these options and measurements.

    All combinations of these values where they are not many; else all combinations of the steps and switches among
    them, with some numbers for each. All that a scalar does not depend on is chosen at random, the same in every run.
    """
    chance = random.Random(repr(depends_on))
    combined = list(depends_on)
    if math.prod(len(VALUES[key]) for key in combined) > MANY:
        combined = [key for key in depends_on if key in SWITCHES]
    else:
        draws = 1
    for values in itertools.product(*(VALUES[key] for key in combined)):
        for _ in range(draws):
            others = {key: chance.choice(choices) for key, choices in VALUES.items() if key not in combined}
            yield Case(**others, **dict(zip(combined, values, strict=True)))
