"""Classes in a configuration: the class that a name refers to, else what is wrong with it and the nearest name."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from inspect import isclass
from typing import Any

from jsonargparse import ArgumentParser, Namespace

EXTRAS = {
    "bitsandbytes": "8bit",
    "torchao": "8bit",
    "adafactor8bit": "optimizers",
    "adam_mini": "optimizers",
    "apollo_torch": "optimizers",
    "came_pytorch": "optimizers",
    "flashoptim": "optimizers",
    "galore_torch": "optimizers",
    "gefen": "optimizers",
    "lion_pytorch": "optimizers",
    "optimi": "optimizers",
}
"""Optional libraries, with the extra of this project that installs each."""


def find_class(path: Any, bases: Iterable[type]) -> tuple[Any, str]:
    """Finds a class, or a function that returns an object.

    Args:
        path: The import path, or the name alone of an imported subclass of ``bases``.
        bases: The classes that are expected.

    Returns:
        The class and an empty text; or None and what is wrong, as the end of a sentence that begins with the path.
    """
    is_path = all(map(str.isidentifier, str(path).split(".")))
    module, _, name = str(path).rpartition(".") if is_path else ("", "", str(path))
    wanted = " or ".join(base.__name__ for base in bases)
    # Of two classes of one name the first imported is meant: torch's AdamW, and not that of another library.
    known = {cls.__name__: cls for base in bases for cls in reversed([*_subclasses(base)])}
    try:
        found = getattr(import_module(module), name) if module else known[name]
    except KeyError:
        problem = f", which names no {wanted}"
    except (ImportError, AttributeError) as error:
        problem = f", which cannot be imported ({error})"
        if extra := EXTRAS.get(library_of(error) or module.partition(".")[0]):
            # Suggesting other classes is no remedy for a missing library.
            install = f'pip install "lightning-adafactor[{extra}]" (in this repository: make setup)'
            return None, f"{problem}: install it with {install}"
        known |= {cls.__name__: cls for cls in vars(sys.modules.get(module, object)).values() if isclass(cls)}
    else:
        of_another_kind = isclass(found) and not issubclass(found, tuple(bases) or object)
        return (None, f", which is no {wanted}") if of_another_kind else (found, "")
    return None, problem + did_you_mean(_path(known[near]) for near in get_close_matches(str(name), known, n=2))


def library_of(error: Exception) -> str:
    """The library that an import did not find, which an adapter in this project may need; empty for another error."""
    return (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""


def did_you_mean(names: Iterable[str]) -> str:
    """The end of a sentence that suggests names; nothing for none."""
    names = list(names)
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def default_class(default: Any) -> Any:
    """The class of an argument's default, None for none."""
    path = default.get("class_path") if isinstance(default, Mapping | Namespace) else None
    return find_class(path, ())[0] if path else None


def class_parser(cls: Any, bases: Mapping[type, int]) -> ArgumentParser:
    """The parser of a class's arguments.

    Args:
        cls: The class, or a function that returns an object.
        bases: The classes that are expected, each with the number of arguments that are passed later.
    """
    later = max((count for base, count in bases.items() if isclass(cls) and issubclass(cls, base)), default=0)
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    add = parser.add_class_arguments if isclass(cls) else parser.add_function_arguments
    add(cls, skip={later} if later else None, fail_untyped=False)
    return parser


def _subclasses(base: type) -> Iterator[type]:
    yield base
    subclasses: list[type] = base.__subclasses__()
    for cls in subclasses:
        yield from _subclasses(cls)


def _path(cls: type) -> str:
    """The shortest import path of a class: torch.optim.SGD for torch.optim.sgd.SGD."""
    parts = cls.__module__.split(".")
    modules = (".".join(parts[: n + 1]) for n in range(len(parts)))
    shortest = next((m for m in modules if getattr(sys.modules.get(m), cls.__name__, None) is cls), cls.__module__)
    return f"{shortest}.{cls.__name__}"
