"""Which setting the parser refused: its key, its place, what was expected, the nearest right one.

jsonargparse says *that* a configuration is wrong, in its own words and from the point of view of its types.
After such a refusal the settings are walked once more, in the order they were given, against the very same
parser, to say it in the user's words.
"""

import collections.abc
import importlib
import inspect
import sys
import typing
from argparse import Action, ArgumentError
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from jsonargparse import ArgumentParser
from torch import Tensor

from recipes.cli.config_files import Key, key_name
from recipes.cli.given import MISSING, Given
from recipes.messages import RecipeError

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
PLAIN_MODULES = ("builtins", "pathlib", "datetime", "typing", "collections.abc")
LISTED_AT_MOST = 12
# Libraries that are installed when asked for, each with the extra of this project that brings it.
EXTRAS = {"bitsandbytes": "8bit", "torchao": "8bit"}


def explain(parser: ArgumentParser, given: Iterable[Given]) -> None:
    """Raises a :class:`RecipeError` for the first setting that the parser does not take, if there is one."""
    walk = _Walk()
    for source in given:
        walk.source = source
        walk.level(parser, source.settings, "", ())
    walk.required()


def refuse_empty_groups(parser: ArgumentParser, given: Iterable[Given]) -> None:
    """Raises a :class:`RecipeError` for a ``trainer:`` with nothing below it, which parses as null."""
    groups = {action.dest.split(".")[0] for action in _settable(parser) if "." in action.dest}
    for source in given:
        for key, value in source.settings.items():
            if value is None and key in groups:
                raise RecipeError(f"{source.where((key,))}{key} is empty: give it a setting below, or leave it out")


@dataclass
class _Walk:
    """The walk through all settings: it remembers the class that each key has named so far."""

    source: Given = field(default_factory=lambda: Given({}))
    classes: dict[str, type] = field(default_factory=dict)
    arguments: dict[str, set[str]] = field(default_factory=dict)
    open: dict[str, tuple[Given, Key, ArgumentParser]] = field(default_factory=dict)

    def level(self, parser: ArgumentParser, settings: Mapping[str, Any], prefix: str, key: Key) -> None:
        """Checks settings against the parser's keys that begin with ``prefix``."""
        actions = {action.dest: action for action in _settable(parser)}
        for name, value in settings.items():
            dest = f"{prefix}{str(name).removesuffix('+')}"
            below = (*key, name)
            if any(known.startswith(f"{dest}.") for known in actions):
                if isinstance(value, Mapping):
                    self.level(parser, value, f"{dest}.", below)
                elif not isinstance(value, str):
                    self.fail(below, "is given no value: it is a group of settings")
            elif dest in actions:
                self.value(actions[dest], value, below)
            else:
                siblings = (known[len(prefix) :].split(".")[0] for known in actions if known.startswith(prefix))
                self.unknown(below, siblings)

    def value(self, action: Action, value: Any, key: Key) -> None:
        """Checks the value of one key of the parser."""
        self.typed(getattr(action, "_typehint", action.type), value, key, action)

    def typed(self, hint: Any, value: Any, key: Key, action: Action | None = None) -> None:
        bases = _bases(hint)
        if value is MISSING:
            self.fail(key, f"is given no value: expected {expected(hint)}")
        elif isinstance(value, Mapping) and bases:
            self.class_settings(bases, value, key, action)
        elif isinstance(value, list) and bases:
            for i, item in enumerate(value):
                self.typed(hint, item, (*key, i), action)
        elif isinstance(value, str) and "${" in value:
            return
        elif not _accepts(hint, value):
            if isinstance(value, str) and bases and ("." in value or not _takes_scalars(hint)):
                self.find_class(value, bases, key)
            self.fail(key, f"is {value!r}: expected {expected(hint)}{_nearest_choice(hint, value)}")

    def class_settings(self, bases: dict[type, int], value: Mapping[str, Any], key: Key, action: Action | None) -> None:
        """Checks a ``class_path``, else the class named before, and its ``init_args``."""
        name = _without_init_args(key)
        if "class_path" in value:
            if not isinstance(value["class_path"], str):
                self.fail((*key, "class_path"), f"is {value['class_path']!r}: expected the name of a class")
            self.classes[name] = self.find_class(value["class_path"], bases, (*key, "class_path"))
        cls = self.classes.get(name) or _default_class(action)
        if cls is None:
            wanted = " or ".join(base.__name__ for base in bases)
            self.fail(key, f"has no class_path: name a {wanted} there, and its arguments under init_args")
        parser = _parser_of(cls, bases)
        known = {action.dest for action in _settable(parser)}
        init_args = value.get("init_args") or {}
        if not isinstance(init_args, Mapping):
            self.fail((*key, "init_args"), f"is {init_args!r}: expected arguments of {cls.__name__}")
        extra = {argument: value[argument] for argument in value if argument not in CLASS_KEYS}
        for argument in extra:
            if "class_path" in value or argument not in known:
                meant = [f"init_args.{argument}"] if argument in known else None
                self.unknown((*key, argument), [*CLASS_KEYS[:2], *known], meant)
        self.arguments.setdefault(name, set()).update(init_args, extra)
        self.open[name] = (self.source, key, parser)
        self.level(parser, init_args, "", (*key, "init_args"))
        self.level(parser, extra, "", key)

    def required(self) -> None:
        """Checks that every class was given the arguments it has no default for."""
        for name, (source, key, parser) in self.open.items():
            missing = {action.dest for action in _settable(parser) if action.required} - self.arguments[name]
            if missing:
                self.source = source
                self.fail(key, f"needs {' and '.join(sorted(missing))} under init_args")

    def find_class(self, path: str, bases: dict[type, int], key: Key) -> type:
        """The class that ``path`` names, whole or by its last part as jsonargparse allows."""
        wanted = " or ".join(base.__name__ for base in bases)
        subclasses: dict[str, type] = {}
        for base in bases:
            for cls in _subclasses(base):
                # Of two classes of one name, the one that was there first: torch's AdamW, and not another library's.
                if not cls.__name__.startswith("_"):
                    subclasses.setdefault(cls.__name__, cls)
        module_name, _, name = path.rpartition(".")
        if not module_name:
            if path not in subclasses:
                near = get_close_matches(path, subclasses, n=3)
                self.fail(key, f"is {path!r}, which names no {wanted}{_or(_path(subclasses[n]) for n in near)}")
            return subclasses[path]
        try:
            found = getattr(importlib.import_module(module_name), name)
        except ImportError as error:
            if extra := EXTRAS.get(module_name.partition(".")[0]):
                self.fail(
                    key,
                    f"is {path!r}, which cannot be imported ({error}): install it with "
                    f'pip install "lightning-adafactor[{extra}]" (in this repository: make setup)',
                )
            near = get_close_matches(name, subclasses, n=1, cutoff=0.8)
            self.fail(
                key,
                f"is {path!r}, which cannot be imported ({error}){_or(_path(subclasses[n]) for n in near)}",
            )
        except AttributeError:
            module = sys.modules[module_name]
            near = [n for n in get_close_matches(name, dir(module), n=5) if _is_class(module, n)][:2]
            self.fail(
                key,
                f"is {path!r}: module {module_name} has no {name}{_or(f'{module_name}.{n}' for n in near)}",
            )
        if inspect.isclass(found) and not issubclass(found, tuple(bases)):
            self.fail(key, f"is {path!r}, which is no {wanted}")
        return found

    def unknown(self, key: Key, known: Iterable[str], meant: list[str] | None = None) -> None:
        choices = sorted({name for name in known if not name.startswith("_")})
        if len(key) == 1 and self.source.file is None:
            choices += ["help", "print_config"]
        near = meant or get_close_matches(str(key[-1]).removesuffix("+"), choices, n=2, cutoff=0.6)
        if near:
            ending = _or(near)
        elif len(choices) <= LISTED_AT_MOST:
            ending = f"; expected one of {', '.join(choices)}"
        else:
            ending = ""
        raise RecipeError(f"{self.source.where(key)}unknown key '{key_name(key)}'{ending}")

    def fail(self, key: Key, what: str) -> typing.NoReturn:
        raise RecipeError(f"{self.source.where(key)}{key_name(key)} {what}")


def _or(names: Iterable[str]) -> str:
    names = list(names)
    return f"; did you mean {' or '.join(repr(name) for name in names)}?" if names else ""


def _settable(parser: ArgumentParser) -> Iterator[Action]:
    """The parser's settings, without --help and its like."""
    return (
        action
        for action in parser._actions
        if action.dest not in ("help", "==SUPPRESS==", "print_config") and not action.dest.endswith(".help")
    )


def _without_init_args(key: Key) -> str:
    return key_name(tuple(part for part in key if part != "init_args" and not isinstance(part, int)))


def _bases(hint: Any) -> dict[type, int]:
    """The classes that a type takes, each with the number of arguments that its caller fills in."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is collections.abc.Callable:
        filled = len(args[0]) if isinstance(args[0], list) else 0
        return dict.fromkeys(_bases(args[1]), filled)
    if args and origin is not typing.Literal:
        return {cls: filled for arg in args for cls, filled in _bases(arg).items()}
    if not inspect.isclass(hint) or hint is Tensor or hint.__module__ in PLAIN_MODULES:
        return {}
    return {hint: 0}


def _takes_scalars(hint: Any) -> bool:
    args = typing.get_args(hint)
    return hint in (bool, int, float) or typing.get_origin(hint) is typing.Literal or any(map(_takes_scalars, args))


def _is_class(module: Any, name: str) -> bool:
    return inspect.isclass(getattr(module, name, None))


def _subclasses(base: type) -> Iterator[type]:
    yield base
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        yield from _subclasses(cls)


def _path(cls: type) -> str:
    """The shortest path under which a class is already imported: torch.optim.SGD for torch.optim.sgd.SGD."""
    parts = cls.__module__.split(".")
    for n in range(1, len(parts) + 1):
        module = ".".join(parts[:n])
        if getattr(sys.modules.get(module), cls.__name__, None) is cls:
            return f"{module}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__name__}"


def _default_class(action: Action | None) -> type | None:
    default = getattr(action, "default", None)
    path = default.get("class_path") if isinstance(default, Mapping) else None
    if path is None:
        path = getattr(default, "class_path", None)
    if not isinstance(path, str):
        return None
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name, None)


def _parser_of(cls: type, bases: dict[type, int]) -> ArgumentParser:
    filled = max((count for base, count in bases.items() if inspect.isclass(cls) and issubclass(cls, base)), default=0)
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    add = parser.add_class_arguments if inspect.isclass(cls) else parser.add_function_arguments
    add(cls, skip={filled} if filled else None, fail_untyped=False)
    return parser


def _accepts(hint: Any, value: Any) -> bool:
    if hint is None:
        return True
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("--value", type=hint)
    try:
        if isinstance(value, str):
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def expected(hint: Any) -> str:
    """A type in words, such as ``a whole number or null``."""
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
    }
    if hint in words:
        return words[hint]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple, set, collections.abc.Iterable, collections.abc.Sequence):
        return f"a list of {expected(args[0]).removeprefix('a ').removeprefix('an ')}" if args else "a list"
    if origin is dict or hint is dict:
        return "a mapping of keys to values"
    bases = _bases(hint)
    if bases and (not args or origin is collections.abc.Callable):
        names = " or ".join(base.__name__ for base in bases)
        return f"{'an' if names[0] in 'AEIOU' else 'a'} {names} (class_path and init_args)"
    choices = _choices(hint)
    others = [expected(arg) for arg in args if not _choices(arg)] if origin is not typing.Literal else []
    if choices:
        others.insert(0, f"one of {', '.join(choices)}")
    return " or ".join(dict.fromkeys(others)) or getattr(hint, "__name__", str(hint))


def _nearest_choice(hint: Any, value: Any) -> str:
    return _or(get_close_matches(str(value), _choices(hint), n=1))


def _choices(hint: Any) -> list[str]:
    """The words and numbers that a type allows by name."""
    args: Iterable[Any] = typing.get_args(hint)
    if typing.get_origin(hint) is not typing.Literal:
        args = [choice for arg in args for choice in _choices(arg)]
    return list(dict.fromkeys(map(str, args)))


def sentence(message: str, command: str) -> str:
    """The parser's own message in few words, for what :func:`explain` finds nothing wrong with."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip()]
    if "arguments are required" in lines[0]:
        missing = [key.removeprefix(f"{command}.") for key in lines[0].partition(": ")[2].split(", ")]
        return (
            f"{' and '.join(sorted(missing))} must be given: name a recipe, such as --config cls.yaml, "
            f"or see python -m recipes {command} --help"
        )
    noise = (
        "Does not validate against any",
        "Subtypes:",
        "Errors:",
        "Expected a <class 'NoneType'>",
        "Given value",
    )
    telling = [line for line in lines if not line.startswith(noise)]
    return " ".join(telling)[:600].replace(f"{command}.", "")
