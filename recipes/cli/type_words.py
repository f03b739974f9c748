"""Types in words, for messages: what a setting accepts."""

import collections.abc
import inspect
import types
import typing
from collections.abc import Iterable
from typing import Any

from recipes.ranges import WORDS

PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping of keys to values",
    list: "a list",
    type(None): "null",
}
PLAIN_MODULES = ("builtins", "pathlib", "datetime", "typing", "collections.abc", "os", "torch")
LISTS = (list, tuple, set, collections.abc.Iterable, collections.abc.Sequence)


def expected(hint: Any) -> str:
    """A type in words, such as ``a whole number or null``."""
    if hint in PLAIN or hint in WORDS:
        return PLAIN.get(hint) or WORDS[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in LISTS:
        return f"a list of {expected(arguments[0]).removeprefix('a ').removeprefix('an ')}"
    if origin is dict:
        return PLAIN[dict]
    classes = classes_in(hint)
    if classes and (not arguments or origin is collections.abc.Callable):
        names = " or ".join(cls.__name__ for cls in classes)
        return f"{'an' if names[0] in 'AEIOU' else 'a'} {names} (class_path and init_args)"
    words = [f"one of {', '.join(choices_in(hint))}"] if choices_in(hint) else []
    if origin is not typing.Literal:
        words += [expected(argument) for argument in arguments if not choices_in(argument)]
    return " or ".join(dict.fromkeys(words)) or getattr(hint, "__name__", str(hint))


def choices_in(hint: Any) -> list[str]:
    """The literal values that a type allows."""
    choices: Iterable[Any] = typing.get_args(hint)
    if typing.get_origin(hint) is not typing.Literal:
        choices = [choice for argument in choices for choice in choices_in(argument)]
    return list(dict.fromkeys(map(str, choices)))


def takes_null(hint: Any) -> bool:
    """Whether a type accepts null, or is not known."""
    unknown = hint in (None, Any, inspect.Parameter.empty)
    return unknown or hint is type(None) or any(map(takes_null, _alternatives(hint)))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType, typing.Annotated) else ()


def takes_scalars(hint: Any) -> bool:
    """Whether a type accepts true, false, a number or a choice."""
    arguments = typing.get_args(hint)
    return hint in (bool, int, float) or typing.get_origin(hint) is typing.Literal or any(map(takes_scalars, arguments))


def classes_in(hint: Any) -> dict[type, int]:
    """The classes that a type accepts with class_path and init_args, each with the number of arguments passed later.

    That number is 1 for ``Callable[[Iterable], Optimizer]``: the parameters are passed when the optimizer is made.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if collections.abc.Callable in (hint, origin):
        if not arguments:
            return {}
        later = len(arguments[0]) if isinstance(arguments[0], list) else 0
        return dict.fromkeys(classes_in(arguments[1]), later)
    if arguments and origin is not typing.Literal:
        return {cls: later for argument in arguments for cls, later in classes_in(argument).items()}
    plain = not inspect.isclass(hint) or hint in WORDS or hint.__module__ in PLAIN_MODULES
    return {} if plain else {hint: 0}
