"""The setting that the parser rejected: file and line, key, what is expected there, the nearest name, the remedy.

jsonargparse decides what is invalid. After it has rejected a configuration, each setting is checked alone, in the order
in which they were given, until it rejects one.
"""

from argparse import Action, ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from recipes.cli.class_paths import class_parser, default_class, did_you_mean, find_class
from recipes.cli.config_files import EXTENSION, Key, key_name
from recipes.cli.foreign_names import KEYS
from recipes.cli.given import MISSING, NULL, Given, holds_null
from recipes.cli.jsonargparse_internals import arguments_of, type_of
from recipes.cli.type_words import choices_in, classes_in, expected, takes_null, takes_scalars
from recipes.messages import RecipeError

SPECIFICATION = ("class_path", "init_args", "dict_kwargs")
LISTED_AT_MOST = 12
NOISE = ("Does not validate against any", "Subtypes:", "Errors:", "Expected a <class 'NoneType'>", "Given value")


class NullGivenError(RecipeError):
    """A null where a value is needed."""


def explain(parser: ArgumentParser, given: Iterable[Given]) -> None:
    """Raises a :class:`RecipeError` for the first setting that the parser rejects, if there is one."""
    search = _Search()
    for search.source in given:
        search.settings(parser, search.source.settings, ())
    for name, (source, key, required) in search.required.items():
        if missing := required - search.arguments[name]:
            named = f"{source.where(key)}{key_name(key)}"
            raise RecipeError(f"{named} needs {' and '.join(sorted(missing))} under init_args")


def refuse_null(parser: ArgumentParser, given: Sequence[Given]) -> None:
    """Raises a :class:`RecipeError` for a null that its type does not allow: in arguments of classes it parses.

    The parser has accepted everything: whatever else the search takes for a mistake is none.
    """
    if any(holds_null(source.settings) for source in given):
        try:
            explain(parser, given)
        except NullGivenError:
            raise
        except RecipeError:
            return


def refuse_empty_groups(parser: ArgumentParser, given: Iterable[Given]) -> None:
    """Raises a :class:`RecipeError` for a ``trainer:`` with nothing below it, which parses as null."""
    groups = {argument.dest.split(".")[0] for argument in arguments_of(parser) if "." in argument.dest}
    for source in given:
        for key, value in source.settings.items():
            if value is None and key in groups:
                raise RecipeError(f"{source.where((key,))}{key} is empty: give it a setting below, or leave it out")


def sentence(message: str, command: str) -> str:
    """The parser's own message, shortened, for an error for which :func:`explain` finds no setting."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    if "arguments are required: " in lines[0]:
        missing = sorted(lines[0].partition(": ")[2].replace(f"{command}.", "").split(", "))
        remedy = f"name a recipe, such as --config cls.yaml, or see python -m recipes {command} --help"
        return f"{' and '.join(missing)} must be given: {remedy}"
    return " ".join(line for line in lines if not line.startswith(NOISE))[:600].replace(f"{command}.", "")


@dataclass
class _Search:
    """The search for a mistake. For each key it keeps the class, its required arguments, and those given so far."""

    source: Given = field(default_factory=lambda: Given({}))
    classes: dict[str, Any] = field(default_factory=dict)
    required: dict[str, tuple[Given, Key, set[str]]] = field(default_factory=dict)
    arguments: dict[str, set[str]] = field(default_factory=dict)

    def settings(self, parser: ArgumentParser, settings: Mapping[str, Any], key: Key, group: str = "") -> None:
        """Checks settings against the arguments of a parser whose names begin with ``group``."""
        known = {argument.dest: argument for argument in arguments_of(parser) if argument.dest.startswith(group)}
        for name, value in settings.items():
            below, dest = (*key, name), group + str(name).removesuffix("+")
            if any(other.startswith(f"{dest}.") for other in known):
                if isinstance(value, Mapping):
                    self.settings(parser, value, below, f"{dest}.")
                elif not isinstance(value, str):
                    self.fail(below, "is given no value: it is a group of settings")
            elif dest in known:
                self.value(parser, known[dest], value, below)
            else:
                self.unknown(below, {other.removeprefix(group).split(".")[0] for other in known})

    def value(self, parser: ArgumentParser, argument: Action, value: Any, key: Key) -> None:
        """Checks the value of an argument."""
        hint = type_of(argument)
        classes = classes_in(hint)
        if value is MISSING:
            self.fail(key, f"is given no value: expected {expected(hint)}")
        if value in (None, NULL) and not takes_null(hint) and (argument.required or argument.default is not None):
            where = f"{self.source.where(key)}{key_name(key)}"
            raise NullGivenError(f"{where} is null: expected {expected(hint)}")
        if classes and isinstance(value, list):
            for i, item in enumerate(value):
                self.value(parser, argument, item, (*key, i))
        elif classes and isinstance(value, Mapping):
            self.specification(argument, classes, value, key)
        elif classes and isinstance(value, str) and find_class(value, classes)[0]:
            self.specification(argument, classes, {"class_path": value}, key)
        elif "${" not in str(value) and _refuses(parser, argument, value):
            if classes and isinstance(value, str) and ("." in value or not takes_scalars(hint)):
                self.fail(key, f"is {value!r}{find_class(value, classes)[1]}")
            near = get_close_matches(str(value), choices_in(hint), n=1)
            number = isinstance(value, str) and value.removeprefix("-").replace(".", "", 1).isdigit()
            self.fail(key, f"is {value if number else repr(value)}: expected {expected(hint)}{did_you_mean(near)}")

    def specification(self, argument: Action, classes: Mapping[type, int], value: Mapping[str, Any], key: Key) -> None:
        """Checks a class_path, or takes the class named before, and checks the init_args."""
        name = key_name(tuple(str(part).removesuffix("+") for part in key if part != "init_args"))
        cls = self.classes.get(name) or default_class(argument.default)
        if "class_path" in value:
            cls, problem = find_class(value["class_path"], classes)
            if problem:
                self.fail((*key, "class_path"), f"is {value['class_path']!r}{problem}")
        if cls is None:
            wanted = " or ".join(base.__name__ for base in classes)
            self.fail(key, f"has no class_path: name a {wanted} there, and its arguments under init_args")
        init_args = value.get("init_args") or {}
        if not isinstance(init_args, Mapping):
            self.fail((*key, "init_args"), f"is {init_args!r}: expected arguments of {cls.__name__}")
        parser = class_parser(cls, classes)
        known = {argument.dest: argument.required for argument in arguments_of(parser)}
        beside = {part: value[part] for part in value if part not in SPECIFICATION}
        for part in beside:
            if part not in known:
                self.unknown((*key, part), {*SPECIFICATION[:2], *known})
            if "class_path" in value:
                self.fail((*key, part), "is beside class_path: move it under init_args")
        self.classes[name] = cls
        self.required[name] = (self.source, key, {part for part in known if known[part]})
        self.arguments.setdefault(name, set()).update(init_args, beside)
        self.settings(parser, init_args, (*key, "init_args"))
        self.settings(parser, beside, key)

    def unknown(self, key: Key, known: Iterable[str]) -> NoReturn:
        choices = sorted(name for name in known if not name.startswith("_"))
        if len(key) == 1 and self.source.file is None:
            choices += ["help", "print_config"]
        near = get_close_matches(str(key[-1]).removesuffix("+"), choices, n=2)
        listed = f"; expected one of {', '.join(choices)}" if len(choices) <= LISTED_AT_MOST else ""
        elsewhere = KEYS.get(str(key[-1]))
        remedy = f"; use {elsewhere}" if elsewhere and key_name(key) not in elsewhere else did_you_mean(near) or listed
        if len(key) == 1 and self.source.file and key[0] in self.source.file.anchors:
            remedy = f"; a key that only holds an anchor is called {EXTENSION}{key[0]}"
        raise RecipeError(f"{self.source.where(key)}unknown key '{key_name(key)}'{remedy}")

    def fail(self, key: Key, what: str) -> NoReturn:
        raise RecipeError(f"{self.source.where(key)}{key_name(key)} {what}")


def _refuses(parser: ArgumentParser, argument: Action, value: Any) -> bool:
    settings = Namespace()
    settings[argument.dest] = value
    try:
        parser.validate(settings, skip_required=True)
    except (TypeError, ValueError, KeyError, ArgumentError):
        return True
    return False
