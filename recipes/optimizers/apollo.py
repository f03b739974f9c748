"""APOLLO: a step size for each row or column of the hidden matrices, from random projections of their gradients."""

from collections.abc import Iterable
from typing import Any, Literal

from apollo_torch import APOLLOAdamW as LibraryAdamW
from apollo_torch.random_projector import GradientProjector
from apollo_torch.svd_projector import GaLoreProjector

from recipes.optimizers.hidden_matrices import split_groups
from recipes.optimizers.projections import ProjectionsInState, low_rank_groups


class APOLLOAdamW(ProjectionsInState, LibraryAdamW):
    """``apollo_torch.APOLLOAdamW``; all parameters but the hidden matrices have a usual AdamW (arXiv 2412.05270).

    Args:
        params: Parameters or parameter groups; a group's option ``hidden_matrices`` says whether it is projected.
        lr: The learning rate.
        betas: Decay factors of the averages of gradients and squared gradients.
        eps: Added to the denominator of the update.
        weight_decay: Weights are multiplied by 1 - lr * weight_decay in each step.
        correct_bias: Whether the averages are corrected for their start at zero.
        rank: Rows or columns of a projected gradient; 1 for APOLLO-Mini.
        update_proj_gap: Steps between two random projections.
        scale: The update of the hidden matrices is multiplied by its square root; 1 for APOLLO, 128 for APOLLO-Mini.
        scale_type: What has a step size of its own: ``channel`` for APOLLO, ``tensor`` for APOLLO-Mini.
        proj: ``random``, or ``svd`` for a singular value decomposition of the gradient.
        scale_front: Whether the update is scaled before its growth is limited; for trainings with a short warm-up.
        disable_nl: Whether to leave out the limit of the update's growth, a factor of 1.01 per step.

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
        rank: int = 256,
        update_proj_gap: int = 200,
        scale: float = 1.0,
        scale_type: Literal["channel", "tensor"] = "channel",
        proj: Literal["random", "svd"] = "random",
        scale_front: bool = False,
        disable_nl: bool = False,
    ) -> None:
        low_rank = {
            "rank": rank,
            "update_proj_gap": update_proj_gap,
            "scale": scale,
            "scale_type": scale_type,
            "proj": proj,
            "proj_type": "std",  # the library scales the update only along the longer side
        }
        groups = low_rank_groups(params, low_rank)
        LibraryAdamW.__init__(self, groups, lr, tuple(betas), eps, weight_decay, correct_bias, scale_front, disable_nl)

    def make_projector(self, group: dict[str, Any], state: dict[str, Any]) -> Any:
        """Makes the projector of a hidden matrix; a random one begins with the seed in the state."""
        options = {key: group[key] for key in ("update_proj_gap", "scale", "proj_type")}
        if group["proj"] == "svd":
            return GaLoreProjector(group["rank"], **options)
        return GradientProjector(group["rank"], **options, seed=state["seed"])
