"""``TransformersAdafactor``: transformers' arguments and numbers, computed by the same implementations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import Optimizer, ParamsT

from lightning_adafactor.adafactor import Adafactor
from lightning_adafactor.nonfinite import OnNonfinite
from lightning_adafactor.rule import Dialect, Rule, state_dtype


class TransformersAdafactor(Adafactor):
    """Adafactor with ``transformers.Adafactor``'s arguments and results.

    It differs from :class:`~lightning_adafactor.Adafactor` in the meaning of ε₁ and weight decay (see
    ``lightning_adafactor.rule``), and keeps RMS(p) in ``state[p]["RMS"]``, where transformers'
    ``AdafactorSchedule`` reads it. Otherwise the state has torch's names and shapes; :meth:`load_state_dict` accepts
    both libraries' own.

    Args:
        params: Parameters, named parameters, or dicts that define parameter groups.
        lr: Step size; None with ``relative_step``.
        eps: ``(ε₁, ε₂)``: what is added to squared gradients, and the smallest parameter scale.
        clip_threshold: Clip threshold d of RMS(U).
        decay_rate: Exponent of t in ω = 1 - β̂₂ₜ, the weight of the newest squared gradient.
        beta1: Decay factor of an exponential moving average of the updates; None keeps no average.
        weight_decay: Decoupled weight decay λ, multiplied by the step size α.
        scale_parameter: Multiply the step size by max(ε₂, RMS(p)).
        relative_step: Step size min(1e-2, 1/√t) instead of ``lr``.
        warmup_init: Step size min(1e-6·t, 1/√t); needs ``relative_step``.
        maximize: Maximize the objective instead of minimizing it.
        fused: Take the step in Triton kernels, see :class:`~lightning_adafactor.Adafactor`.
        compiled: Take the step on CPUs in compiled loops, see there.
        capturable: Allow the step to be captured in a CUDA graph.
        stochastic_rounding: Round written bfloat16 parameters up or down at random (None means yes). transformers
            rounds to nearest, and so does this class by default.
        seed: Key of the random numbers of stochastic rounding; saved with the state.
        allow_unfactored: Accept parameters that FSDP1 or DeepSpeed ZeRO have flattened, see there.
        on_nonfinite: "ignore", "skip" or "raise" where a gradient is not finite, see there.

    Raises:
        ValueError: ``lr`` together with ``relative_step``, or ``warmup_init`` without it.
        RuntimeError: ``fused=True`` where it is not supported.
    """

    _dialect: Dialect = "transformers"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        *,
        maximize: bool = False,
        fused: bool | None = None,
        compiled: bool | None = None,
        capturable: bool = False,
        stochastic_rounding: bool | None = False,
        seed: int = 0,
        allow_unfactored: bool = False,
        on_nonfinite: OnNonfinite = "ignore",
    ) -> None:
        if lr is not None and relative_step:
            raise ValueError("Cannot combine manual `lr` and `relative_step=True` options")
        if warmup_init and not relative_step:
            raise ValueError("`warmup_init=True` requires `relative_step=True`")
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "beta1": beta1,
            "weight_decay": weight_decay,
            "scale_parameter": scale_parameter,
            "relative_step": relative_step,
            "warmup_init": warmup_init,
            "maximize": maximize,
            "fused": fused,
            "compiled": compiled,
            "capturable": capturable,
            "stochastic_rounding": stochastic_rounding,
            "seed": seed,
            "allow_unfactored": allow_unfactored,
            "on_nonfinite": on_nonfinite,
        }
        # not Adafactor's own constructor, whose argument names and checks are torch's
        Optimizer.__init__(self, params, defaults)

    def _rule(self, group: dict[str, Any], *, part: bool = False) -> Rule:
        if group["lr"] is None and not group["relative_step"]:
            raise ValueError("TransformersAdafactor needs an `lr` when `relative_step=False`")
        initializes = not part and self._initializes_state(group)
        return super()._rule(
            {
                **group,
                "lr": 1e-2 if group["relative_step"] else group["lr"],
                "beta2_decay": group["decay_rate"],
                "d": group["clip_threshold"],
                "weight_decay": 0.0 if initializes else group["weight_decay"],
            },
            part=part,
        )

    def _initializes_state(self, group: dict[str, Any]) -> bool:
        """Whether this is the step by which torch.distributed.checkpoint creates a group's state.

        It sets lr = 0 and zero gradients, and expects parameters to stay the same; but with ``relative_step`` the step
        size is not lr, and so weight decay would change them. ``AdafactorSchedule`` sets lr = 0 as well, hence the look
        at the gradients, which are reduced here so that all processes decide alike.
        """
        if not group["relative_step"] or group["weight_decay"] == 0 or group["lr"] is None or float(group["lr"]) != 0:
            return False
        if any(self.state.get(param) for param in group["params"]):
            return False
        gradients = [param.grad for param in group["params"] if param.grad is not None]
        largest = [torch.linalg.vector_norm(gradient, torch.inf) for gradient in gradients if gradient.numel() > 0]
        return bool(largest) and all(
            float(norm.full_tensor() if isinstance(norm, DTensor) else norm) == 0 for norm in largest
        )

    def _new_state(self, param: Tensor, rule: Rule) -> dict[str, Tensor]:
        state = super()._new_state(param, rule)
        state["RMS"] = torch.zeros((), dtype=state_dtype(param), device=param.device)
        return state

    def _adopted_state(self, param: Tensor, saved: dict[str, Any]) -> dict[str, Any]:
        rms = torch.as_tensor(saved.get("RMS", 0.0), dtype=state_dtype(param), device=param.device)
        return {**super()._adopted_state(param, saved), "RMS": rms.detach().clone().reshape(())}

    def _get_lr(self, param_group: dict[str, Any], param_state: dict[str, Any]) -> float:
        """α of a group's first parameter; the name and signature that transformers' ``AdafactorSchedule`` calls."""
        return self._rule(param_group).alpha(float(param_state["step"]), float(param_state["RMS"]))
