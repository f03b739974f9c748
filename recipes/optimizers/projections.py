"""Low-rank projections of gradients as tensors in an optimizer's state.

GaLore and APOLLO keep an object for each matrix, their projector, in the state. Lightning's checkpoints refuse to load
such an object, and it is not moved to the device with the rest. Here the state has the projector's matrix instead, and
the projector exists only during a step.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from recipes.optimizers.hidden_matrices import KEY, marked


def low_rank_groups(params: Iterable[Any], options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameter groups, of which the hidden matrices have the options of their projection.

    Args:
        params: Parameters or parameter groups.
        options: The options, ``rank`` and ``update_proj_gap`` among them; those that a group has already win.

    Raises:
        ValueError: ``rank`` or ``update_proj_gap`` is below 1.
    """
    rank, update_proj_gap = options["rank"], options["update_proj_gap"]
    if rank < 1 or update_proj_gap < 1:
        raise ValueError(f"rank is {rank} and update_proj_gap {update_proj_gap}: both must be at least 1")
    return [{**(options if group[KEY] else {}), **group} for group in marked(params)]


class ProjectionsInState(Optimizer, ABC):
    """The step of an optimizer that reads ``state["projector"]``: the first base class of an adapter.

    An adapter defines :meth:`make_projector`.
    """

    @abstractmethod
    def make_projector(self, group: dict[str, Any], state: dict[str, Any]) -> Any:
        """Makes the library's projector for a parameter.

        Args:
            group: The parameter's group, with ``rank`` and the other options of the projection.
            state: The parameter's state.
        """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes a step.

        Args:
            closure: Computes the loss and the gradients.

        Returns:
            The closure's loss, if there is a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        states = []
        for group in self.param_groups:
            for parameter in group["params"] if "rank" in group else ():
                if parameter.grad is not None:
                    state = self.state[parameter]
                    state["projector"] = self.make_projector(group, state)
                    state["projector"].ortho_matrix = state.get("projection")
                    states.append(state)
        super().step()
        for state in states:
            projector = state.pop("projector")
            state["projection"] = _without_the_rest(projector.ortho_matrix)
            if hasattr(projector, "seed"):
                state["seed"] = projector.seed  # of the next projection
        return loss


def _without_the_rest(matrix: Tensor) -> Tensor:
    """A copy of a matrix that is a part of a larger tensor, such as all of a singular value decomposition."""
    whole = matrix.untyped_storage().nbytes() == matrix.numel() * matrix.element_size()
    return matrix if whole else matrix.clone(memory_format=torch.contiguous_format)
