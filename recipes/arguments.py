"""The parser of those commands that have a command line of their own: compare, estimate, generate, reproduce."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import Any, NoReturn

from recipes.errors import RecipeError


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

    def error(self, message: str) -> NoReturn:
        """Raises a :class:`RecipeError` in argparse's words, without the usage that it puts before them."""
        raise RecipeError(f"{message}; see python -m recipes.{self._command} --help")
