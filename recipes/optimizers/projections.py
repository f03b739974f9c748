"""Low-rank projections of gradients as tensors in an optimizer's state.

GaLore and APOLLO keep an object for each matrix, their projector, in the state. Lightning's checkpoints refuse to load
such an object, and it is not moved to the device with the rest. Here the state has the projector's matrix instead, and
the projector exists only during a step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class ProjectionsInState(Optimizer):
    """The step of an optimizer that reads ``state["projector"]``: the first base class of an adapter.

    An adapter defines :meth:`make_projector`.
    """

    def make_projector(self, group: dict[str, Any], state: dict[str, Any]) -> Any:
        """Makes the library's projector for a parameter.

        Args:
            group: The parameter's group, with ``rank`` and the other options of the projection.
            state: The parameter's state.
        """
        raise NotImplementedError

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
