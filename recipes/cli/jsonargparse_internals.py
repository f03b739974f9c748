"""The private attributes of argparse and jsonargparse that the command line uses: named here and nowhere else.

They are read, never changed. ``tests/recipes/cli/test_jsonargparse_internals.py`` names the one that a new version of
Python or jsonargparse has removed.
"""

from argparse import SUPPRESS, Action
from collections.abc import Iterator
from types import FrameType
from typing import Any

from jsonargparse import ArgumentParser


def arguments_of(parser: ArgumentParser) -> Iterator[Action]:
    """The arguments of a parser that can be set; not ``--help``, ``--print_config`` or ``--model.help``."""
    for action in parser._actions:
        if action.dest not in ("help", "print_config", SUPPRESS) and not action.dest.endswith(".help"):
            yield action


def type_of(argument: Action) -> Any:
    """The type hint of an argument; None for one without."""
    return getattr(argument, "_typehint", argument.type)


def refused_alternatives(frame: FrameType) -> list[BaseException]:
    """The errors of all types that a value could have had, where jsonargparse reports the first one as the cause."""
    if frame.f_code.co_name != "raise_union_unexpected_value":
        return []
    return list(frame.f_locals.get("exceptions", []))
