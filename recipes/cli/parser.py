"""The parser of ``fit``, ``validate``, ``test`` and ``predict``: its help texts, and the arguments that it parses."""

import json
from collections.abc import Mapping
from typing import Any

import yaml
from jsonargparse import SUPPRESS, ActionConfigFile, Namespace, set_parsing_settings
from jsonargparse.typing import Path_fr
from lightning.pytorch.cli import LightningArgumentParser

from recipes.cli.command_line import CONFIG, CommandLine, Option
from recipes.cli.commands import COMMANDS
from recipes.cli.config_files import ConfigFile
from recipes.cli.given import Given, holds_null
from recipes.cli.interpolation import absolute_in
from recipes.cli.lent_arguments import take_nothing_over

# The parser resolves ${...} once, after all files and options; without this, references inside a file would
# be looked for above the subcommand. It is a setting of the whole process, read when a file is parsed.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

CLASSES = ("model", "data")
"""The settings that are a class of the user's choice."""
USAGE = "--config FILE [--config FILE ...] [--KEY VALUE ...]"
CONFIG_HELP = (
    "YAML file, looked for in the working folder and then in configs/. Several are merged from left to right, together "
    "with the options between and after them: what comes later wins."
)
EPILOG = (
    "The settings of a recipe: --model.help recipes.TextClassifier, --data.help "
    "recipes.TextClassificationData; those of an optimizer: --model.help recipes.TextClassifier "
    "--model.optimizer.help torch.optim.AdamW. A run writes to runs/NAME/version_N/, NAME being that of the "
    "first --config and N a new number each time. The folder of all runs is trainer.default_root_dir, else "
    "the variable RUNS_DIR, else runs. An error is one sentence, and its traceback is in error.txt in the run's "
    "folder, or in error_DATE.txt in the folder of all runs if there is no run yet; --debug shows it."
)


class RecipeParser(LightningArgumentParser):
    """Lightning's parser without the usage lines that argparse puts before the help of a class.

    Args:
        command: The command that it parses; None for the outer parser.

    Attributes:
        given: The settings that it parses, in the order in which they were given; for the parser of a command.
    """

    def __init__(self, *args: Any, command: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("usage", SUPPRESS)
        super().__init__(*args, **kwargs)
        self.command = command
        self.given: list[Given] = []

    def dump(self, cfg: Namespace, *args: Any, **kwargs: Any) -> str:
        """The settings as YAML: each class with its own arguments, none taken over from another one."""
        if self.given:
            cfg = cfg.clone()
            list(take_nothing_over(self.given, cfg))
        return super().dump(cfg, *args, **kwargs)

    def add_config_argument(self, files: Mapping[str, ConfigFile]) -> None:
        """Adds ``--config``.

        Args:
            files: The files that it may name, already read.
        """
        argument = self.add_argument("-c", CONFIG, action=GivenConfig, help=CONFIG_HELP)
        argument.files = files


class GivenConfig(ActionConfigFile):
    """``--config``: parses the text of a file that the command line has read, and opens no file itself.

    Attributes:
        files: The files by the names under which they are given.
    """

    files: Mapping[str, ConfigFile] = {}

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Merges the settings of a file into those parsed so far."""
        file = self.files.get(values)
        if file is None:  # YAML itself
            super().__call__(parser, cfg, values, option_string)
            return
        # Paths in a file are relative to it. The comment keeps the text from being taken for the name of a file.
        with Path_fr(str(file.path)).relative_path_context():
            super().__call__(parser, cfg, f"# {file.path}\n{file.text}", option_string)


def parser_settings(command: str) -> dict[str, Any]:
    """Arguments of the outer parser and, under the command's name, of the parser of that command."""
    return {
        "parser_mode": "omegaconf+",
        "allow_abbrev": False,
        "exit_on_error": False,
        command: {
            "command": command,
            "usage": f"python -m recipes {command} {USAGE}",
            "description": COMMANDS[command],
            "epilog": EPILOG,
            "allow_abbrev": False,
        },
    }


def words_for(command: str, command_line: CommandLine) -> list[str]:
    """The arguments for the parser, each value in the same word as its option, so that it has one reading only."""
    return [command, *(word for option in command_line.options for word in _words(command, option))]


def _words(command: str, option: Option) -> list[str]:
    if option.value is None:
        return [option.name]
    if option.given is None:
        return [option.name, option.value]
    if option.name == CONFIG:
        return [f"{CONFIG}={option.value}"]
    if _loses_null(option):
        return [f"{CONFIG}={_as_yaml(option)}"]
    return [f"{option.name}={absolute_in(command, option.value)}"]


def _loses_null(option: Option) -> bool:
    """Whether jsonargparse would turn a null into the text 'None', as it does for model.optimizer.beta1.

    It does so two classes deep, for options alone. In YAML a null stays a null.
    """
    parts = [part for part in option.key.split(".") if part != "init_args"]
    if parts[0] not in CLASSES or len(parts) < 3 or option.name.endswith("+") or not str(option.value).strip():
        return False
    try:
        return holds_null(yaml.safe_load(str(option.value)))
    except yaml.YAMLError:
        return False


def _as_yaml(option: Option) -> str:
    """``--a.b null`` as ``{"a": {"b": null}}``."""
    keys = option.key.split(".")
    return "".join(f"{{{json.dumps(key)}: " for key in keys) + str(option.value) + "}" * len(keys)
