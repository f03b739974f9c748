"""The commands of ``python -m recipes``, and the parser of those that have options of their own."""

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
"""The commands of Lightning, each with its description in ``--help``."""


class OwnCommand(NamedTuple):
    """A command that has options of its own.

    Attributes:
        module: The module that is imported when the command runs. It has ``main(args) -> exit status``.
        description: The description in ``--help``.
    """

    module: str
    description: str


OWN_COMMANDS = {
    "generate": OwnCommand("recipes.generate", "Generate text with the language model of a finished run."),
    "compare": OwnCommand(
        "recipes.compare.command",
        "Train the same recipe under several optimizers, and compare memory, time and quality.",
    ),
    "estimate": OwnCommand(
        "recipes.estimate.command", "Predict how much memory a training run will need, before anything is trained."
    ),
    "reproduce": OwnCommand("recipes.reproduce.command", "Repeat a run from its report, and compare the results."),
}
USAGE = (
    f"usage: python -m recipes {{{','.join(COMMANDS)}}} --config FILE [--config FILE ...] [--KEY VALUE ...]\n"
    f"       python -m recipes {{{','.join(OWN_COMMANDS)}}} ... (see their --help)"
)


def help_of_all() -> str:
    """What ``python -m recipes --help`` prints."""
    parser = ArgumentParser(
        prog="python -m recipes",
        usage=USAGE.removeprefix("usage: "),
        description="Fine-tunes transformers with little optimizer memory, from YAML files.",
        epilog="Each command has a --help of its own: python -m recipes fit --help",
    )
    commands = parser.add_subparsers(title="commands", metavar="")
    for name, description in COMMANDS.items():
        commands.add_parser(name, help=description)
    for name, command in OWN_COMMANDS.items():
        commands.add_parser(name, help=command.description)
    return parser.format_help()


class CommandParser(ArgumentParser):
    """An argparse parser without abbreviated options, whose errors are :class:`RecipeError`.

    Args:
        command: The name of the command, as in ``python -m recipes NAME``.
        settings: Further arguments of :class:`argparse.ArgumentParser`.
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
        """Raises a :class:`RecipeError` with the message of argparse, without its usage."""
        raise RecipeError(f"{message}; see python -m recipes.{self._command} --help")
