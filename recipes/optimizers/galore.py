"""GaLore: AdamW on low-rank projections of the hidden matrices' gradients."""

from collections.abc import Iterable
from typing import Any, Literal

from galore_torch import GaLoreAdamW as LibraryAdamW
from galore_torch.galore_projector import GaLoreProjector

from recipes.optimizers.hidden_matrices import split_groups
from recipes.optimizers.projections import ProjectionsInState, low_rank_groups


class GaLoreAdamW(ProjectionsInState, LibraryAdamW):
    """``galore_torch.GaLoreAdamW``; all parameters but the hidden matrices have a usual AdamW (arXiv 2403.03507).

    Args:
        params: Parameters or parameter groups; a group's option ``hidden_matrices`` says whether it is projected.
        lr: The learning rate.
        betas: Decay factors of the averages of gradients and squared gradients.
        eps: Added to the denominator of the update.
        weight_decay: Weights are multiplied by 1 - lr * weight_decay in each step.
        correct_bias: Whether the averages are corrected for their start at zero.
        rank: Rows or columns of a projected gradient.
        update_proj_gap: Steps between two singular value decompositions of each gradient.
        scale: The update of the hidden matrices is multiplied by it.
        proj_type: Which side of a matrix is projected: ``std`` the shorter one, ``reverse_std`` the longer one.

    Raises:
        ValueError: An argument is out of range.
    """

    split_groups = staticmethod(split_groups)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        correct_bias: bool = True,
        rank: int = 128,
        update_proj_gap: int = 200,
        scale: float = 0.25,
        proj_type: Literal["std", "reverse_std", "right", "left"] = "std",
    ) -> None:
        low_rank = {"rank": rank, "update_proj_gap": update_proj_gap, "scale": scale, "proj_type": proj_type}
        groups = low_rank_groups(params, low_rank)
        betas = (betas[0], betas[1])
        LibraryAdamW.__init__(self, groups, lr, betas, eps, weight_decay, correct_bias, no_deprecation_warning=True)

    def make_projector(self, group: dict[str, Any], state: dict[str, Any]) -> Any:
        """Makes the projector of a hidden matrix."""
        return GaLoreProjector(
            group["rank"],
            update_proj_gap=group["update_proj_gap"],
            scale=group["scale"],
            proj_type=group["proj_type"],
        )
