"""The private attributes that the command line reads are still there, and mean what they meant."""

import argparse
import platform
from typing import Any

import jsonargparse
import pytest
from jsonargparse import ArgumentParser

from recipes.cli.jsonargparse_internals import arguments_of, listed_commands, type_of


@pytest.fixture
def parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--size", type=int | None)
    parser.add_subclass_arguments(argparse.Action, "action", required=False)
    return parser


@pytest.fixture
def with_commands(parser: ArgumentParser) -> ArgumentParser:
    outer = ArgumentParser(exit_on_error=False)
    outer.add_subcommands().add_subcommand("fit", parser, help="Train.")
    return outer


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


def test_a_parser_has_an_action_for_its_commands(with_commands: ArgumentParser) -> None:
    still_has(with_commands, "_subcommands_action", JSONARGPARSE)


def test_the_commands_have_an_action_for_each_line_of_the_help(with_commands: ArgumentParser) -> None:
    still_has(with_commands._subcommands_action, "_choices_actions", ARGPARSE)


def test_arguments_are_those_that_can_be_set(parser: ArgumentParser) -> None:
    parser.add_argument("--config", action="config")
    assert [argument.dest for argument in arguments_of(parser)] == ["size", "action", "config"]


def test_the_type_of_an_argument_is_its_hint(parser: ArgumentParser) -> None:
    types = {argument.dest: type_of(argument) for argument in arguments_of(parser)}
    assert types == {"size": int | None, "action": argparse.Action | None}


def test_the_help_of_a_command_can_be_replaced(with_commands: ArgumentParser) -> None:
    (fit,) = listed_commands(with_commands)
    assert (fit.dest, fit.help) == ("fit", "Train.")
    fit.help = "Another text."
    assert "Another text." in with_commands.format_help()
