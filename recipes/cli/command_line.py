"""The command line, read once: each word has one meaning, and each configuration file is read here and nowhere else."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from recipes.cli.config_files import ConfigFile, is_inline, load_config, parse_config
from recipes.cli.given import MISSING, Given
from recipes.messages import RecipeError

CONFIG = "--config"
SHORT = ("-c", "-h")
HELP = ("-h", "--help")
PRINT_CONFIG = "--print_config"
NEGATIVE_NUMBER = re.compile(r"-(\d[\d_]*\.?\d*|\.\d+)(e[-+]?\d+)?|-\.?(inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Option:
    """An option of the command line.

    Attributes:
        name: The option with its dashes, such as ``--trainer.max_epochs`` or ``--trainer.callbacks+``. The short
            form ``-c`` is called ``--config``.
        value: Its value as typed. None: there is none.
        given: What it sets; for ``--config FILE`` the settings of the file. None: nothing, such as ``--help``.
    """

    name: str
    value: str | None = None
    given: Given | None = None

    @property
    def key(self) -> str:
        """The key that it sets, such as ``trainer.max_epochs``."""
        return self.name.lstrip("-").removesuffix("+")

    @property
    def file(self) -> ConfigFile | None:
        """The configuration file that it names."""
        return self.given.file if self.given else None


@dataclass(frozen=True)
class CommandLine:
    """The options of a command, in the order in which they are merged.

    Options are read as argparse reads them: ``--key value``, ``--key=value``, ``-c FILE``, ``-cFILE``. A word that
    begins with a dash is an option, unless it is a lone dash, a negative number, or holds a space before any ``=``.
    Any other word is the value of the option before it. In addition to argparse, ``-1e-3`` is a number.
    """

    options: tuple[Option, ...] = ()

    @classmethod
    def parse(cls, words: Sequence[str], files: Iterable[ConfigFile] = ()) -> "CommandLine":
        """Reads a command line and the configuration files that it names.

        Args:
            words: The command line without the command.
            files: Configuration files that come before it, already read.

        Raises:
            RecipeError: A word belongs to no option, or a configuration file is missing or not valid.
        """
        options = [Option(CONFIG, str(file.path), Given(file.settings, file)) for file in files]
        read = {option.value: option.file for option in options}
        stray: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if not is_option(word) or word == "--":
                stray.append(word)
                continue
            name, value = _split(word)
            if value is None and rest and not is_option(rest[0]) and name not in (*HELP, PRINT_CONFIG):
                value = rest.pop(0)
            if name == CONFIG and value is not None and not is_inline(value) and value not in read:
                read[value] = load_config(value)
            options.append(Option(name, value, _given(name, value, read)))
        if stray and not any(option.name in HELP for option in options):
            raise RecipeError(
                f"'{stray[0]}' belongs to no option: options begin with --, and a list is written '[a, b]'"
            )
        return cls(tuple(options))

    def __add__(self, other: "CommandLine") -> "CommandLine":
        return CommandLine((*self.options, *other.options))

    @property
    def given(self) -> list[Given]:
        """All settings, in the order in which they are merged."""
        return [option.given for option in self.options if option.given]

    @property
    def is_complete(self) -> bool:
        """Whether each option that sets something has a value."""
        return all(option.given is None or option.value is not None for option in self.options)

    @property
    def files(self) -> dict[str, ConfigFile]:
        """The configuration files by the names under which they were given."""
        return {str(option.value): option.file for option in self.options if option.file}


def is_option(word: str) -> bool:
    """Whether a word of the command line is an option, and not a value."""
    if word.startswith(SHORT):
        return True
    name = word.partition("=")[0]
    return word.startswith("-") and word != "-" and " " not in name and not NEGATIVE_NUMBER.fullmatch(word)


def _split(word: str) -> tuple[str, str | None]:
    """The name of an option, and its value if that is in the same word."""
    if word.startswith("-c"):
        return CONFIG, word[2:].removeprefix("=") if len(word) > 2 else None
    name, sign, value = word.partition("=")
    return name, value if sign else None


def _given(name: str, value: str | None, files: Mapping[str | None, ConfigFile | None]) -> Given | None:
    """What an option sets."""
    if name in (*HELP, PRINT_CONFIG) or name.endswith(".help"):
        return None
    if name == CONFIG:
        if value is None:
            raise RecipeError(f"{CONFIG} is given no value: expected the name of a YAML file")
        file = files.get(value)
        return Given(file.settings, file) if file else Given(parse_config(value, CONFIG)[0])
    settings: Any = MISSING if value is None else value
    if value is not None and value.lstrip().startswith(("[", "{")):
        try:
            settings = yaml.safe_load(value)
        except yaml.YAMLError:
            settings = value
    for part in reversed(name.lstrip("-").split(".")):
        settings = {part: settings}
    return Given(settings)
