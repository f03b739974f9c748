"""A command line as settings: what each ``--config`` and each ``--key value`` gives, in order."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from recipes.cli.config_files import ConfigFile, find_config, is_inline, read_config
from recipes.cli.given import MISSING, Given

WITHOUT_SETTINGS = ("-h", "--help", "--print_config")


def options_in(args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The options of a command line with their values, None for one without. Words in between are skipped."""
    words = iter(enumerate(args))
    for i, word in words:
        if not word.startswith("-"):
            continue
        option, sign, value = word.partition("=")
        if sign:
            yield option, value
        elif i + 1 < len(args) and not args[i + 1].startswith("--"):
            yield option, args[i + 1]
            next(words)
        else:
            yield option, None


def configs_in(args: Sequence[str]) -> Iterator[ConfigFile]:
    """The configuration files that a command line names.

    Raises:
        RecipeError: One of them is not there or cannot be read.
    """
    for option, value in options_in(args):
        if option in ("-c", "--config") and value is not None and not is_inline(value):
            yield read_config(find_config(value))


def given_in(args: Sequence[str]) -> Iterator[Given]:
    """All settings that a command line gives, in the order in which they are laid on top of each other."""
    for option, value in options_in(args):
        if option in ("-c", "--config"):
            if value is None:
                continue
            if is_inline(value):
                yield Given(yaml.safe_load(value))
            else:
                file = read_config(find_config(value))
                yield Given(file.settings, file)
        elif option not in WITHOUT_SETTINGS and not option.endswith(".help"):
            yield _given_option(option, value)


def _given_option(option: str, value: str | None) -> Given:
    """One ``--a.b.c value`` as nested settings; lists and mappings are read as YAML."""
    settings: Any = MISSING if value is None else value
    if value is not None and value.lstrip().startswith(("[", "{")):
        try:
            settings = yaml.safe_load(value)
        except yaml.YAMLError:
            settings = value
    for part in reversed(option.lstrip("-").split(".")):
        settings = {part: settings}
    return Given(settings)
