"""A recipe's model, data and settings as ``fit`` would make them; no trainer, no run, no folder."""

from typing import Any

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from recipes.cli.command_line import CommandLine
from recipes.cli.config_files import ConfigFile
from recipes.cli.lightning import RecipeCLI
from recipes.messages import RecipeError

OPTIMIZER_OPTIONS = ("--model.optimizer", "--model.init_args.optimizer")


class ParsedRecipe(RecipeCLI):
    """Goes through the parser of the recipes and makes the model and the data.

    Args:
        command_line: The options of fit.

    Attributes:
        model: The module, without weights.
        datamodule: Its data, not read yet.

    Raises:
        RecipeError: Something on the command line or in a file is not as it has to be.
    """

    def __init__(self, command_line: CommandLine) -> None:
        try:
            super().__init__("fit", command_line + CommandLine.parse(["--seed_everything=false"]))
        except MisconfigurationException as error:
            raise RecipeError(" ".join(str(error).split())) from error

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """``fit`` alone: a parser less for each of the others."""
        return {"fit": RecipeCLI.subcommands()["fit"]}

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """No trainer."""
        return None

    def _run_subcommand(self, subcommand: str) -> None:
        """No run."""

    @property
    def trainer_settings(self) -> dict[str, Any]:
        """What the trainer would be made with."""
        return self.config[self.subcommand]["trainer"].as_dict()

    @property
    def optimizer_class(self) -> str:
        """Import path of the optimizer's class."""
        optimizer = self.config[self.subcommand]["model"]["init_args"]["optimizer"]
        return str(optimizer["class_path"] if hasattr(optimizer, "get") else type(optimizer).__name__)


def with_optimizer(command_line: CommandLine, optimizer: ConfigFile) -> CommandLine:
    """The options of fit with the optimizer of a file, without those that change the recipe's own optimizer."""
    kept = [option for option in command_line.options if not option.name.startswith(OPTIMIZER_OPTIONS)]
    files = [option for option in kept if option.file]
    others = [option for option in kept if not option.file]
    return CommandLine((*files, *CommandLine.parse([], [optimizer]).options, *others))
