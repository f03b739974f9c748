"""Classes in a configuration."""

import sys
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from torch.optim import Optimizer

from recipes.cli.class_paths import class_parser, default_class, did_you_mean, find_class


class Base:
    """A class with a subclass of the same name as another one's."""


class Child(Base):
    """Takes one argument now, and one later."""

    def __init__(self, later: int, now: int = 1) -> None:
        self.both = later, now


def make(now: int = 1) -> Base:
    return Child(1, now)


HERE = __name__


def test_a_class_is_found_by_its_path_or_by_its_name() -> None:
    assert find_class(f"{HERE}.Child", [Base]) == (Child, "")
    assert find_class("Child", [Base]) == (Child, "")


def test_a_function_may_stand_in_for_a_class() -> None:
    assert find_class(f"{HERE}.make", [Base]) == (make, "")


def test_of_two_classes_of_one_name_the_first_imported_is_meant() -> None:
    type("AdamW", (Optimizer,), {"__module__": "elsewhere"})
    assert find_class("AdamW", [Optimizer])[0] is torch.optim.AdamW


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("Chidl", f", which names no Base; did you mean '{HERE}.Child'?"),
        (f"{HERE}.Chidl", f", which cannot be imported (module '{HERE}' has no attribute 'Chidl'); did you mean "),
        ("no_such.Child", f", which cannot be imported (No module named 'no_such'); did you mean '{HERE}.Child'?"),
        ("argparse.Action", ", which is no Base"),
        ("Xyzzy", ", which names no Base"),
        (3, ", which names no Base"),
        ("../x", ", which names no Base"),
        ("a folder/x.y", ", which names no Base"),
    ],
)
def test_a_wrong_name_is_answered_with_the_problem_and_the_nearest(path: Any, problem: str) -> None:
    cls, said = find_class(path, [Base])
    assert cls is None
    assert said.startswith(problem)


@pytest.mark.parametrize(
    ("path", "library", "extra"),
    [
        ("bitsandbytes.optim.AdamW8bit", "bitsandbytes", "8bit"),
        ("lion_pytorch.Lion", "lion_pytorch", "optimizers"),
        ("recipes.optimizers.galore.GaLoreAdamW", "galore_torch", "optimizers"),
    ],
)
def test_a_missing_optional_library_is_answered_with_its_extra(
    path: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loaded in (library, path.rpartition(".")[0]):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    _, said = find_class(path, [Optimizer])
    assert f'install it with pip install "lightning-adafactor[{extra}]" (in this repository: make setup)' in said


def test_the_class_of_a_default_is_known() -> None:
    for default in ({"class_path": f"{HERE}.Child"}, Namespace(class_path=f"{HERE}.Child", init_args=Namespace())):
        assert default_class(default) is Child
    assert default_class(None) is None
    assert default_class({"lr": 1}) is None


def test_arguments_that_are_passed_later_are_not_asked_for() -> None:
    known = {action.dest for action in class_parser(Child, {Base: 1})._actions}
    assert "now" in known
    assert "later" not in known
    assert "later" in {action.dest for action in class_parser(Child, {Base: 0})._actions}


def test_a_suggestion_names_all_candidates_or_nothing() -> None:
    assert did_you_mean(["a", "b"]) == "; did you mean 'a' or 'b'?"
    assert did_you_mean([]) == ""
