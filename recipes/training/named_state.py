"""Checkpoints name the parameters of an optimizer's state: one process and many load the same file."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from recipes.messages import RecipeError


class NamedOptimizerState(Callback):
    """Replaces the numbers that stand for parameters in saved optimizer states by the parameters' names.

    torch numbers parameters in the order of the optimizer's groups, ``ModelParallelStrategy`` in that of the model: a
    state of one process would reach other parameters. torch loads names as it loads numbers.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Called on all ranks; where a sharded state is collected, only the first one has it."""
        states = checkpoint.get("optimizer_states", [])
        for optimizer, state in zip(trainer.optimizers, states, strict=False):
            if state.get("param_groups"):
                _rename(state, _names(trainer, pl_module, optimizer, state))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Rejects a state with numbers where parameters are sharded.

        Raises:
            RecipeError: The checkpoint is of an earlier version.
        """
        if not isinstance(trainer.strategy, ModelParallelStrategy):
            return
        for state in checkpoint.get("optimizer_states", []):
            if len(state["param_groups"]) > 1 and any(isinstance(key, int) for key in state["state"]):
                raise RecipeError(
                    f"--ckpt_path {trainer.ckpt_path}: its optimizer state does not name its parameters, as in "
                    "checkpoints of earlier versions, and ModelParallelStrategy would mix them up: resume with the "
                    "strategy it was saved with, save a new checkpoint, and resume from that"
                )


def _names(trainer: Trainer, pl_module: LightningModule, optimizer: Any, state: dict[str, Any]) -> dict[Any, str]:
    """The name for each key of a state."""
    if isinstance(trainer.strategy, ModelParallelStrategy):
        return dict(enumerate(name for name, _ in pl_module.named_parameters()))
    known = {id(parameter): name for name, parameter in pl_module.named_parameters()}
    keys = [key for group in state["param_groups"] for key in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {key: known.get(id(parameter), key) for key, parameter in zip(keys, parameters, strict=True)}


def _rename(state: dict[str, Any], names: dict[Any, str]) -> None:
    state["state"] = {names.get(key, key): value for key, value in state["state"].items()}
    state["param_groups"] = [
        {**group, "params": [names.get(key, key) for key in group["params"]]} for group in state["param_groups"]
    ]
