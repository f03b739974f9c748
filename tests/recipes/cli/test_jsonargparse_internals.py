"""The private attributes that the command line reads are still there, and mean what they meant."""

import argparse
import platform
from typing import Any

import jsonargparse
import pytest
from jsonargparse import ArgumentParser

from recipes.cli.jsonargparse_internals import arguments_of, type_of


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--size", type=int | None)
    parser.add_subclass_arguments(argparse.Action, "action", required=False)
    return parser


def still_has(owner: Any, attribute: str, library: str) -> None:
    assert hasattr(owner, attribute), (
        f"{library} no longer has {type(owner).__name__}.{attribute}: see recipes/cli/jsonargparse_internals.py"
    )


JSONARGPARSE = f"jsonargparse {jsonargparse.__version__}"
ARGPARSE = f"the argparse of Python {platform.python_version()}"


def test_a_parser_has_actions(parser: ArgumentParser) -> None:
    still_has(parser, "_actions", ARGPARSE)


def test_an_action_has_its_type_hint(parser: ArgumentParser) -> None:
    (size,) = (action for action in parser._actions if action.dest == "size")
    still_has(size, "_typehint", JSONARGPARSE)


def test_arguments_are_those_that_can_be_set(parser: ArgumentParser) -> None:
    parser.add_argument("--config", action="config")
    assert [argument.dest for argument in arguments_of(parser)] == ["size", "action", "config"]


def test_the_type_of_an_argument_is_its_hint(parser: ArgumentParser) -> None:
    types = {argument.dest: type_of(argument) for argument in arguments_of(parser)}
    assert types == {"size": int | None, "action": argparse.Action | None}
