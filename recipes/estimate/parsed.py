"""A recipe's model, data and settings as ``fit`` would create them, without a trainer or a run."""

from types import SimpleNamespace
from typing import Any

from recipes.cli.command_line import CommandLine
from recipes.cli.config_files import ConfigFile
from recipes.cli.lightning import RecipeCLI

OPTIMIZER_OPTIONS = ("--model.optimizer", "--model.init_args.optimizer")


class ParsedRecipe(RecipeCLI):
    """Parses a recipe's command line and instantiates model and data.

    Args:
        command_line: The options of fit.

    Attributes:
        model: The module, without weights.
        datamodule: Its data, not yet read.

    Raises:
        RecipeError: The command line or a file is invalid.
    """

    def __init__(self, command_line: CommandLine) -> None:
        super().__init__("fit", command_line + CommandLine.parse(["--seed_everything=false"]))

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """A stand-in for the trainer, whose ``fit`` does nothing."""
        return SimpleNamespace(fit=lambda **arguments: None, interrupted=False)

    def before_fit(self) -> None:
        """Does nothing: there is no training."""

    def after_fit(self) -> None:
        """Does nothing: there was no training."""

    @property
    def trainer_settings(self) -> dict[str, Any]:
        """The arguments of the trainer."""
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
