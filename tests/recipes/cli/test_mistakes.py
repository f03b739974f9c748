"""The setting that the parser refused is named, with its line, what is expected and the nearest name."""

import contextlib
import importlib
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from recipes.cli.given import Given
from recipes.cli.mistakes import explain, refuse_null, sentence
from recipes.messages import RecipeError
from recipes.ranges import FractionBelow1, IntFrom3, PositiveInt


class Ranged:
    """A class with arguments of limited range."""

    def __init__(self, batch_size: PositiveInt = 1, length: IntFrom3 | None = None, rate: FractionBelow1 = 0) -> None:
        self.all = (batch_size, length, rate)


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ({"batch_size": 0}, "data.batch_size is 0: expected a whole number above 0"),
        ({"batch_size": "0"}, "data.batch_size is 0: expected a whole number above 0"),
        ({"batch_size": "-1"}, "data.batch_size is -1: expected a whole number above 0"),
        ({"batch_size": 1.5}, "data.batch_size is 1.5: expected a whole number above 0"),
        ({"batch_size": "many"}, "data.batch_size is 'many': expected a whole number above 0"),
        ({"length": 2}, "data.length is 2: expected a whole number of at least 3 or null"),
        ({"rate": 1}, "data.rate is 1: expected a number of at least 0 and below 1"),
    ],
    ids=str,
)
def test_a_number_out_of_range_is_answered_with_the_range(given: dict[str, Any], answer: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Ranged, "data")
    with pytest.raises(RecipeError) as error:
        explain(parser, [Given({"data": given})])
    assert str(error.value) == answer


@pytest.mark.parametrize("value", [None, "null"])
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("batch_size", "data.batch_size is null: expected a whole number above 0"),
        ("rate", "data.rate is null: expected a number of at least 0 and below 1"),
        ("length", None),
    ],
)
def test_null_is_refused_where_the_type_does_not_allow_it(name: str, answer: str | None, value: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Ranged, "data")
    with pytest.raises(RecipeError) if answer else contextlib.nullcontext() as error:
        refuse_null(parser, [Given({"data": {name: value}})])
    assert answer is None or str(error.value) == answer


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("learning_rate", "unknown key 'learning_rate'; use model.optimizer.lr"),
        ("data.gpus", "unknown key 'data.gpus'; use trainer.accelerator gpu and trainer.devices"),
    ],
)
def test_a_name_of_another_trainer_is_answered_with_the_key_here(key: str, answer: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Ranged, "data")
    settings: Any = 1
    for part in reversed(key.split(".")):
        settings = {part: settings}
    with pytest.raises(RecipeError) as error:
        explain(parser, [Given(settings)])
    assert str(error.value) == answer


@pytest.fixture
def parser(tiny_recipe: Path) -> ArgumentParser:
    """A parser for one tree of ``tiny.py`` and a group with one number."""
    tree = importlib.import_module("tiny").Tree
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(tree, "tree")
    parser.add_argument("--group.depth", type=int, default=1)
    return parser


def a_tree(**init_args: Any) -> dict[str, Any]:
    return {"class_path": "tiny.Tree", "init_args": init_args}


def a_leaf(**init_args: Any) -> dict[str, Any]:
    return {"class_path": "tiny.Leaf", "init_args": init_args}


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        (
            {"tree": a_tree(leaf=a_leaf(sise=3))},
            "unknown key 'tree.init_args.leaf.init_args.sise'; did you mean 'size'?",
        ),
        (
            {"tree": a_tree(leaf=a_leaf(size="x"))},
            "tree.init_args.leaf.init_args.size is 'x': expected a whole number",
        ),
        ({"tree": a_tree(leaf=a_leaf())}, "tree.init_args.leaf needs size under init_args"),
        ({"tree": a_tree()}, "tree needs leaf under init_args"),
        (
            {"tree": a_tree(leaf=a_leaf(size=1), leaves=[a_leaf(size=1), a_leaf(size=1, nams=[])])},
            "unknown key 'tree.init_args.leaves[1].init_args.nams'; did you mean 'names'?",
        ),
        (
            {"tree": a_tree(leaf=a_leaf(size=1), rate="high")},
            "tree.init_args.rate is 'high': expected a number or Tensor",
        ),
        ({"tree": a_leaf(size=1)}, "tree.class_path is 'tiny.Leaf', which is no Tree"),
        ({"tree": {"init_args": {}}}, "tree has no class_path: name a Tree there"),
        ({"group": {"dept": 1}}, "unknown key 'group.dept'; did you mean 'depth'?"),
        ({"group": 3}, "group is given no value: it is a group of settings"),
        ({"forest": 3}, "unknown key 'forest'; expected one of group, tree"),
    ],
    ids=str,
)
def test_the_first_mistake_is_found_however_deep(settings: dict[str, Any], answer: str, parser: ArgumentParser) -> None:
    with pytest.raises(RecipeError) as error:
        explain(parser, [Given(settings)])
    assert answer in str(error.value)


def test_a_mistake_is_found_among_settings_that_are_right(parser: ArgumentParser) -> None:
    whole = {"tree": a_tree(leaf=a_leaf(size=1, names=["x"]), leaves=[a_leaf(size=2)], rate="${group.depth}")}
    right = [Given({"group": {"depth": 2}}), Given(whole)]
    explain(parser, right)
    with pytest.raises(RecipeError, match=r"unknown key 'group\.dept'; did you mean 'depth'"):
        explain(parser, [*right, Given({"group": {"dept": 1}})])


def test_a_later_source_may_complete_and_shorten_what_an_earlier_one_named(parser: ArgumentParser) -> None:
    first = {"tree": a_tree(leaf={"class_path": "tiny.Leaf"})}
    explain(parser, [Given(first), Given({"tree": {"leaf": {"size": "3"}}})])
    with pytest.raises(RecipeError, match=r"unknown key 'tree\.leaf\.siz'; did you mean 'size'"):
        explain(parser, [Given(first), Given({"tree": {"leaf": {"siz": "3"}}})])


def test_an_unknown_message_of_the_parser_is_kept_short() -> None:
    message = 'Parser key "x":\n  Does not validate against any of the Union subtypes\n  Expected this'
    assert sentence(message, "fit") == 'Parser key "x": Expected this'
