"""Adafactor written out as in ``lightning_adafactor.rule``: whole matrices, no tiles, nothing reused.

The originals cannot express every option (torch's no constant learning rate, neither one momentum in torch's
dialect), and both keep the state of low-precision parameters in low precision somewhere. This can, in any dtype of
arithmetic, and is itself tested against both originals where they can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Reference:
    """One step after the other on its own copies of the parameters.

    Args:
        params: Initial values; copied.
        dialect: ``"torch"`` or ``"transformers"``.
        options: Keyword arguments of ``Adafactor`` or ``TransformersAdafactor``, by dialect.
        dtype: dtype of arithmetic and state; parameters are rounded to their own dtype after each step.
    """

    def __init__(
        self, params: Sequence[Tensor], dialect: str, options: dict[str, Any], dtype: torch.dtype = torch.float64
    ) -> None:
        self.params = [param.detach().clone() for param in params]
        self.state: list[dict[str, Any]] = [{} for _ in params]
        self.torch = dialect == "torch"
        self.dtype = dtype
        torch_names = {"clip_threshold": "d", "decay_rate": "beta2_decay"}
        given = {torch_names.get(name, name): value for name, value in options.items()}
        self.options = {
            "lr": 1e-2,
            "beta2_decay": -0.8,
            "eps": (None, 1e-3) if self.torch else (1e-30, 1e-3),
            "d": 1.0,
            "weight_decay": 0.0,
            "maximize": False,
            "scale_parameter": True,
            "relative_step": True,
            "warmup_init": False,
            "beta1": None,
            **given,
        }

    def step(self, grads: Sequence[Tensor | None]) -> None:
        for number, (param, grad) in enumerate(zip(self.params, grads, strict=True)):
            if grad is not None:
                updated = self.updated(param.to(self.dtype), grad.to(self.dtype), self.state[number], self.eps1(param))
                param.copy_(updated)

    def eps1(self, param: Tensor) -> float:
        eps1 = self.options["eps"][0]
        return torch.finfo(torch.promote_types(param.dtype, torch.float32)).eps if eps1 is None else eps1

    def updated(self, p: Tensor, g: Tensor, state: dict[str, Any], eps1: float) -> Tensor:
        o = self.options
        t = state["step"] = state.get("step", 0) + 1
        omega = t ** o["beta2_decay"]

        def average(name: str, value: Tensor) -> Tensor:
            state[name] = (1 - omega) * state.get(name, torch.zeros_like(value)) + omega * value
            return state[name]

        g = -g if o["maximize"] else g
        squares = g * g if self.torch else g * g + eps1
        if p.dim() > 1:
            rows = average("row_var", squares.mean(dim=-1, keepdim=True))
            columns = average("col_var", squares.mean(dim=-2, keepdim=True))
            mean = rows.mean(dim=-2, keepdim=True)
            v = rows * columns / mean.clamp(min=eps1) if self.torch else (rows / mean) * columns
        else:
            v = average("variance", squares)
        v = v.clamp(min=eps1 * eps1) if self.torch else v
        u = g / v.sqrt()
        clip = max(1.0, rms(u) / o["d"])
        rho = o["lr"]
        if o["relative_step"]:
            cap = o["lr"] if self.torch else 1e-2
            rho = min(cap, 1 / t**0.5, *([1e-6 * t] if o["warmup_init"] else []))
        alpha = max(o["eps"][1], rms(p)) * rho if o["scale_parameter"] else rho
        update = alpha * u / clip
        if o["beta1"] is not None:
            past = state.get("exp_avg", torch.zeros_like(p))
            update = state["exp_avg"] = o["beta1"] * past + (1 - o["beta1"]) * update
        return p * (1 - o["weight_decay"] * (o["lr"] if self.torch else alpha)) - update


class ReferenceOptimizer(torch.optim.Optimizer):
    """``Reference`` as an optimizer, which computes on the CPU; arguments are those of ``Reference``."""

    def __init__(
        self, params: Sequence[Tensor], dialect: str, options: dict[str, Any], dtype: torch.dtype = torch.float64
    ) -> None:
        super().__init__(params, {})
        self.reference = Reference([param.cpu() for param in params], dialect, options, dtype)

    def step(self, closure: Any = None) -> None:
        params = self.param_groups[0]["params"]
        self.reference.step([None if param.grad is None else param.grad.cpu() for param in params])
        for param, updated, state in zip(params, self.reference.params, self.reference.state, strict=True):
            param.detach().copy_(updated)
            self.state[param] = state


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()
