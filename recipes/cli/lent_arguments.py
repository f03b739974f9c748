"""Arguments that a class would inherit from another class given before it at the same key: it gets its own instead.

jsonargparse keeps the arguments of the previous class, including its defaults: AdamW would get the weight decay of
Adafactor, and the learning rate that a file gives Adafactor. Here a class has the arguments given for it and else its
own defaults. The order on the command line does not matter: an option is for the class that the run has.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jsonargparse import Namespace

from recipes.cli.class_paths import class_parser, default_class, find_class
from recipes.cli.given import Given, flatten, plain_key
from recipes.cli.jsonargparse_internals import arguments_of, type_of
from recipes.cli.type_words import classes_in
from recipes.messages import RecipeError

GROUPS = ("model", "data", "trainer")


@dataclass
class _Typed:
    """What was given at a key, so far."""

    cls: Any
    changed: bool = False
    in_files: dict[str, tuple[Any, Given]] = field(default_factory=dict)
    on_command_line: set[str] = field(default_factory=set)
    of_another: dict[str, tuple[Any, Given]] = field(default_factory=dict)


def take_nothing_over(given: Sequence[Given], config: Namespace) -> Iterator[str]:
    """Gives each class its own arguments.

    Args:
        given: The settings in the order in which they were given.
        config: The merged settings of a command; changed in place.

    Returns:
        A sentence for each argument that a file gives another class, and that is not inherited.

    Raises:
        RecipeError: An argument that a class needs was given for another one only.
    """
    for key, spec, bases, default in _specifications(config):
        cls, problem = find_class(spec["class_path"], bases)
        if not problem:
            typed = _what_was_typed(given, key, cls, default)
            if typed.changed:
                yield from _reset(key, spec, cls, bases, typed)


def _specifications(config: Namespace) -> Iterator[tuple[str, Namespace, dict[type, int], Any]]:
    """For each class below model, data and trainer: its key, its settings, the expected classes, the default one."""
    for group in GROUPS:
        owner = config.get(group)
        if not isinstance(owner, Namespace):
            continue
        arguments = owner.get("init_args") if group != "trainer" else owner
        specs = {n: v for n, v in vars(arguments or Namespace()).items() if _is_specification(v)}
        known = _arguments_of_class(owner.get("class_path")) if specs and group != "trainer" else {}
        for name, spec in specs.items():
            argument = known.get(name)
            bases = classes_in(type_of(argument)) if argument is not None else {}
            yield f"{group}.{name}", spec, bases, default_class(argument.default) if argument is not None else None


def _is_specification(value: Any) -> bool:
    return isinstance(value, Namespace) and isinstance(value.get("class_path"), str)


def _arguments_of_class(class_path: Any) -> dict[str, Any]:
    cls, _ = find_class(class_path, ())
    return {} if cls is None else {argument.dest: argument for argument in arguments_of(class_parser(cls, {}))}


def _what_was_typed(given: Sequence[Given], key: str, cls: Any, default: Any) -> _Typed:
    """What was given for the class that the run has; what was given for another one before it."""
    typed = _Typed(default)
    for source in given:
        settings = {plain_key(name): value for name, value in flatten(source.settings)}
        path = settings.get(f"{key}.class_path", settings.get(key))
        named = find_class(path, ())[0] if isinstance(path, str) and "." in path else None
        if named is None and isinstance(path, str):
            named = cls if getattr(cls, "__name__", None) == path else path
        if named is not None and named is not typed.cls:
            typed.changed = typed.changed or typed.cls is not None
            typed.of_another |= typed.in_files
            typed.cls, typed.in_files = named, {}
        below = {name.removeprefix(f"{key}."): v for name, v in settings.items() if name.startswith(f"{key}.")}
        below.pop("class_path", None)
        names = {name.partition(".")[0]: value for name, value in below.items()}
        if source.file is None:
            typed.on_command_line |= names.keys()
        else:
            typed.in_files |= {name: (value, source) for name, value in names.items()}
    return typed


def _reset(key: str, spec: Namespace, cls: Any, bases: Mapping[type, int], typed: _Typed) -> Iterator[str]:
    """Sets the arguments that were not given for a class to its own defaults."""
    arguments = spec.get("init_args")
    if not isinstance(arguments, Namespace):
        return
    known = {argument.dest: argument for argument in arguments_of(class_parser(cls, dict(bases)))}
    for name in list(vars(arguments)):
        if name in typed.on_command_line or name in typed.in_files or name not in known:
            continue
        if known[name].required:
            raise RecipeError(f"{key} is {spec['class_path']} and needs {name}: give it {key}.{name}")
        value, arguments[name] = arguments[name], known[name].default
        if name in typed.of_another and value != arguments[name]:
            old, origin = typed.of_another[name]
            place = origin.file.path if origin.file else "the command line"
            yield (
                f"{key} is now {spec['class_path']} with its own {name} = {arguments[name]}: {place} gives "
                f"{name} = {old} to another class"
            )
