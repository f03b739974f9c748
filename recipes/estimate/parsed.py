"""A recipe's model, data and settings as ``fit`` would make them; no trainer, no run, no folder."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from recipes.cli.command_line import options_in
from recipes.cli.lightning import RecipeCLI
from recipes.messages import RecipeError

OPTIMIZER_OPTIONS = ("--model.optimizer", "--model.init_args.optimizer")


class ParsedRecipe(RecipeCLI):
    """Goes through the parser of the recipes and makes the model and the data.

    Args:
        configs: ``--config FILE`` and so on.
        options: The options that follow.

    Attributes:
        model: The module, without weights.
        datamodule: Its data, not read yet.

    Raises:
        RecipeError: Something on the command line or in a file is not as it has to be.
    """

    def __init__(self, configs: Sequence[str], options: Sequence[str]) -> None:
        try:
            super().__init__(["fit", *configs, *options, "--seed_everything=false"])
        except MisconfigurationException as error:
            raise RecipeError(" ".join(str(error).split())) from error

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """``fit`` alone: a parser less for each of the others."""
        return {"fit": RecipeCLI.subcommands()["fit"]}

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """What stands in for the trainer: its ``fit`` does nothing."""
        return SimpleNamespace(fit=lambda **arguments: None, interrupted=False)

    def before_fit(self) -> None:
        """Nothing, for nothing is trained."""

    def after_fit(self) -> None:
        """Nothing, for nothing was trained."""

    @property
    def trainer_settings(self) -> dict[str, Any]:
        """What the trainer would be made with."""
        return self.config[self.subcommand]["trainer"].as_dict()

    @property
    def optimizer_class(self) -> str:
        """Import path of the optimizer's class."""
        optimizer = self.config[self.subcommand]["model"]["init_args"]["optimizer"]
        return str(optimizer["class_path"] if hasattr(optimizer, "get") else type(optimizer).__name__)


def without_optimizer(options: Sequence[str]) -> list[str]:
    """Options of fit without those that change the recipe's own optimizer."""
    kept: list[str] = []
    for option, value in options_in(options):
        if not option.startswith(OPTIMIZER_OPTIONS):
            kept += [option] if value is None else [f"{option}={value}"]
    return kept
