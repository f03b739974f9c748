"""The commands of ``python -m recipes``, and the parser of those with a command line of their own."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any, NamedTuple, NoReturn

from recipes.cli.config_files import load_config
from recipes.messages import RecipeError

COMMANDS = {
    "fit": "Train, test the best checkpoint, and leave the model and a report in the run's folder.",
    "validate": "Evaluate a checkpoint on the validation split.",
    "test": "Evaluate a checkpoint on the test split.",
    "predict": "Label texts with a checkpoint, and write them to a file.",
}
"""Lightning's commands, and their line in ``--help``."""


class OwnCommand(NamedTuple):
    """A command with a command line of its own.

    Attributes:
        module: Imported when the command is called; it has ``main(args) -> exit status``.
        description: Its line in ``--help``.
    """

    module: str
    description: str


OWN_COMMANDS = {
    "generate": OwnCommand("recipes.generate", "Write text with a language model that a run has left."),
    "compare": OwnCommand(
        "recipes.compare.command",
        "Train the same recipe under several optimizers, and compare memory, time and quality.",
    ),
    "estimate": OwnCommand(
        "recipes.estimate.command", "Predict how much memory a training will take, before anything is trained."
    ),
    "reproduce": OwnCommand(
        "recipes.reproduce.command", "Run once more what a run has recorded, and compare the results."
    ),
}
USAGE = (
    f"usage: python -m recipes {{{','.join(COMMANDS)}}} --config FILE [--config FILE ...] [--KEY VALUE ...]\n"
    f"       python -m recipes {{{','.join(OWN_COMMANDS)}}} ... (see their --help)"
)


class CommandParser(ArgumentParser):
    """A parser that takes no abbreviated options and answers a mistake with a sentence.

    Args:
        command: The command's name, as in ``python -m recipes NAME``.
        settings: As of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, command: str, **settings: Any) -> None:
        super().__init__(
            prog=f"python -m recipes.{command}",
            allow_abbrev=False,
            formatter_class=RawDescriptionHelpFormatter,
            **settings,
        )
        self._command = command

    def add_config_argument(self) -> None:
        """Adds ``--config FILE``. Its value is the :class:`~recipes.cli.config_files.ConfigFile`, read once."""
        self.add_argument(
            "-c",
            "--config",
            action="append",
            type=load_config,
            required=True,
            metavar="FILE",
            help="the recipe, looked for in the working folder and then in configs/; several are merged from left to "
            "right",
        )

    def error(self, message: str) -> NoReturn:
        """Raises a :class:`RecipeError` in argparse's words, without the usage that it puts before them."""
        raise RecipeError(f"{message}; see python -m recipes.{self._command} --help")
