"""Muon for the hidden matrices of a model, AdamW for all other parameters, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch.optim import AdamW, Optimizer

from recipes.optimizers.hidden_matrices import KEY, marked, split_groups


class MuonWithAdamW(Optimizer):
    """``torch.optim.Muon`` for hidden matrices, ``torch.optim.AdamW`` for embeddings, the head, biases and norms.

    This is the division that Muon's author recommends (kellerjordan.github.io/posts/muon). ``state``, ``param_groups``
    and ``state_dict()`` are those of one optimizer.

    Args:
        params: Parameters or parameter groups; a group's option ``hidden_matrices`` says which part it belongs to.
        lr: The learning rate.
        weight_decay: Weights are multiplied by 1 - lr * weight_decay in each step.
        momentum: Decay factor of Muon's average of the gradients.
        nesterov: Whether Muon uses Nesterov momentum.
        ns_steps: Steps of the Newton-Schulz iteration that orthogonalizes Muon's update, in bfloat16.
        adjust_lr_fn: How lr depends on a matrix's shape (n, m). ``match_rms_adamw``: 0.2 * sqrt(max(n, m)), so that
            AdamW's lr and weight_decay suit both parts (arXiv 2502.16982). ``original``: sqrt(max(1, n / m)).
        adamw_lr: AdamW's learning rate. Null: lr.
        betas: AdamW's decay factors of the averages of gradients and squared gradients.
        eps: Added to the denominator of AdamW's update.

    Raises:
        RuntimeError: This torch has no ``torch.optim.Muon``.
        ValueError: An argument is out of range.
    """

    split_groups = staticmethod(split_groups)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-4,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
        adamw_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise RuntimeError(f"torch {torch.__version__} has no torch.optim.Muon: install torch 2.9 or later")
        muon = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        adamw = {"lr": lr if adamw_lr is None else adamw_lr, "betas": tuple(betas), "eps": eps}
        self._parts: list[Optimizer] = []
        super().__init__(
            [{**(muon if group[KEY] else adamw), **group} for group in marked(params)], {"weight_decay": weight_decay}
        )
        self._make_parts()

    def _make_parts(self) -> None:
        """Makes the two optimizers; they share groups and state with this one."""
        self._parts = []
        for kind, hidden in ((torch.optim.Muon, True), (AdamW, False)):
            if groups := [group for group in self.param_groups if group[KEY] is hidden]:
                part: Optimizer = kind(groups)
                part.state = self.state
                self._parts.append(part)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_parts()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step of both parts.

        Args:
            closure: Computes the loss and the gradients.

        Returns:
            The closure's loss, if there is a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss
