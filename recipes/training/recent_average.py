"""An exponential moving average of the weights whose horizon is a share of the training, short or long."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from recipes.messages import RecipeError


class RecentWeightAveraging(WeightAveraging):
    """Validates, keeps and tests an average of the weights whose horizon is ``share`` of the training's steps.

    With H = share · number of steps, the average is that of all steps until step H, and from there on an exponential
    moving average that gives each new step the weight 1/H: after n ≥ H steps, the steps before the last 2H have
    e⁻² = 14 % of the weight. A fixed decay means other things for short and long trainings: 0.99 of a training of
    50 steps is mostly the first step.

    Args:
        share: Share of the training's steps, above 0 and at most 1.

    Raises:
        RecipeError: The share is out of its range, or the number of steps is not known before the training.
    """

    def __init__(self, share: float = 0.15) -> None:
        if not 0 < share <= 1:
            raise RecipeError(f"trainer.callbacks: share is {share}: expected a number above 0 and at most 1")
        super().__init__(multi_avg_fn=self._add)
        self._share = share
        self._horizon = 1.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes H, which a resumed training of the same length has too."""
        steps = trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise RecipeError(
                f"trainer.callbacks: {type(self).__name__} needs to know the number of steps: set trainer.max_steps "
                "or trainer.max_epochs"
            )
        self._horizon = max(self._share * steps, 1.0)

    def _add(self, averages: list[Tensor], weights: list[Tensor], count: Tensor) -> None:
        """Adds the weights of a step to the average of ``count`` steps, in place; float32 or the parameters' dtype."""
        decay = min(1 - 1 / (int(count) + 1), 1 - 1 / self._horizon)
        get_ema_multi_avg_fn(decay)(averages, weights, count)
