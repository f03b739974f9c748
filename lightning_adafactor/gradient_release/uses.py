"""How many gradients a parameter receives in one backward pass.

Ordinarily one: autograd adds up all uses of a parameter before it writes the gradient. But each reentrant checkpoint
(``torch.utils.checkpoint`` with ``use_reentrant=True``) has a backward pass of its own within the backward pass, and
writes the gradients of its segment at once. A parameter that several such segments use receives a gradient from each,
and is complete only with the last one. Such segments run forward inside an autograd function and in training mode, by
which they are recognized here: such calls of a module are counted. Calls under ``torch.no_grad()``, as for the old
log-probabilities of PPO, are not counted, unless they use reentrant checkpoints too; in that case parameters are
stepped only after the backward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@dataclasses.dataclass(slots=True, eq=False)
class _Calls:
    """Counts calls of a module; a forward pre-hook that survives copying and pickling of the model.

    Attributes:
        with_gradients: Calls that autograd has recorded.
        in_functions: Calls in training mode inside an autograd function, as reentrant checkpoints make them.
    """

    with_gradients: int = 0
    in_functions: int = 0

    def __call__(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or not module.training or _in_backward():
            return
        if torch.is_grad_enabled():
            self.with_gradients += 1
        elif _in_autograd_function():
            self.in_functions += 1

    def reset(self) -> None:
        self.with_gradients = self.in_functions = 0


class Uses:
    """Counts the calls of the modules that hold some parameters.

    Args:
        model: The model.
        params: The parameters.
    """

    def __init__(self, model: nn.Module, params: Iterable[nn.Parameter]) -> None:
        wanted = set(params)
        self._calls: dict[nn.Parameter, list[_Calls]] = {}
        self._handles: list[RemovableHandle] = []
        for module in model.modules():
            own = wanted.intersection(module.parameters(recurse=False))
            if own:
                calls = _Calls()
                self._handles.append(module.register_forward_pre_hook(calls))
                for param in own:
                    self._calls.setdefault(param, []).append(calls)

    def expected(self, param: nn.Parameter) -> int:
        """How many gradients a parameter receives in the backward pass of the last forward pass; at least 1.

        Too many where the same segment calls a module more than once: its parameters are stepped after the backward
        pass then.
        """
        calls = self._calls.get(param, ())
        segments = sum(each.in_functions for each in calls)
        return max(1, segments + any(each.with_gradients for each in calls))

    def reset(self) -> None:
        """Starts to count for the next backward pass."""
        for calls in self._calls.values():
            for each in calls:
                each.reset()

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()


def _in_autograd_function() -> bool:
    """Whether a ``torch.autograd.Function`` runs forward: it turns off forward-mode gradients too."""
    return not torch._C._is_fwd_grad_enabled() and not torch.is_inference_mode_enabled()


def _in_backward() -> bool:
    """Whether this thread is in a backward pass, where a checkpoint calls modules once more."""
    return torch._C._current_graph_task_id() != -1
