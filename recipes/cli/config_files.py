"""Finding and reading the YAML files named with ``--config``. Each is read once; its text is passed on."""

import os
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from recipes.messages import RecipeError

# A wheel installs the repository's configs/ as a folder of this package.
_HERE = Path(__file__).resolve().parent.parent
CONFIGS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"
SUFFIXES = (".yaml", ".yml", ".json")
EXTENSION = "x-"
"""The beginning of top-level keys that are no settings, as in compose files: they hold anchors for other keys."""
MOST_KEYS = 100_000
"""Keys and list items in a file. Anchors that refer to anchors multiply: 300 bytes can mean gigabytes."""
ANCHOR = re.compile(r"^([^\s#'\"].*?):[ \t]+&", re.MULTILINE)

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file that has been read.

    Attributes:
        path: Where it is.
        text: Its content without the keys that begin with :data:`EXTENSION`.
        settings: The same as nested settings.
        lines: The line of each key, counted from 1.
        anchors: The top-level keys that define an anchor: ``common`` of ``common: &common``.
    """

    path: Path
    text: str
    settings: dict[str, Any]
    lines: dict[Key, int]
    anchors: frozenset[str] = frozenset()


def load_config(name: str) -> ConfigFile:
    """Finds and reads the file that ``--config name`` means.

    Raises:
        RecipeError: As :func:`find_config` and :func:`read_config`.
    """
    return read_config(find_config(name))


def is_inline(value: str) -> bool:
    """Whether the value of ``--config`` is YAML itself and not the name of a file."""
    return "\n" in value or value.lstrip().startswith("{")


def find_config(name: str, option: str = "--config") -> Path:
    """Finds a configuration file in the working folder or in ``configs/``.

    Args:
        name: Name of the file, or its path.
        option: The option that named it, for error messages.

    Returns:
        The path of the file. The working folder comes first.

    Raises:
        RecipeError: There is no such file. The message names the folders searched and files of a similar name.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if not path.is_absolute() and (CONFIGS / path).is_file():
        return CONFIGS / path
    if path.is_dir():
        raise RecipeError(f"{option} {name}: is a folder; expected a YAML file{_similar_names(path / 'config')}")
    looked_in = [_shown(Path.cwd() if path.parent == Path(".") else path.parent)]
    if not path.is_absolute():
        looked_in.append(_shown(CONFIGS / path.parent))
    raise RecipeError(f"{option} {name}: no such file in {' or '.join(dict.fromkeys(looked_in))}{_similar_names(path)}")


def _similar_names(path: Path) -> str:
    """The end of the message: existing files of a similar name, best match first; else all files shipped."""
    here = [entry.name for entry in _listed(path.parent) if entry.suffix in SUFFIXES]
    shipped = [] if path.is_absolute() else [entry.relative_to(CONFIGS).as_posix() for entry in _tree(CONFIGS)]
    names = {Path(known).stem: known for known in [*shipped, *here]}
    close = [names[stem] for stem in get_close_matches(path.stem, names, n=3, cutoff=0.5)]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; there are {', '.join(sorted(shipped))}" if shipped else ""


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _tree(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES)


def _shown(path: Path) -> str:
    """A folder, relative to the working folder where possible."""
    try:
        relative = path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        return f"{path}{os.sep}"
    return "the working folder" if relative == Path(".") else f"{relative}{os.sep}"


def read_config(path: Path) -> ConfigFile:
    """Reads a YAML file.

    Raises:
        RecipeError: The file cannot be read, or as :func:`parse_config`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    settings, lines = parse_config(text, str(path))
    anchors = frozenset(ANCHOR.findall(text))
    extensions = {key for key in settings if key.startswith(EXTENSION)}
    if extensions:
        text = _without(extensions, text)
        settings = {key: value for key, value in settings.items() if key not in extensions}
    return ConfigFile(path, text, settings, lines, anchors)


def _without(keys: Collection[str], text: str) -> str:
    """YAML without some of its top-level keys; an anchor in one of them moves to where it is first referred to."""
    node = yaml.compose(text, yaml.SafeLoader)
    node.value = [(key, value) for key, value in node.value if key.value not in keys]
    return str(yaml.serialize(node, Dumper=yaml.SafeDumper, width=sys.maxsize, allow_unicode=True))


def parse_config(text: str, name: str) -> tuple[dict[str, Any], dict[Key, int]]:
    """Parses YAML settings.

    Args:
        text: The YAML.
        name: Where it comes from, for error messages.

    Returns:
        The settings, and the line of each key, counted from 1.

    Raises:
        RecipeError: The text is not valid YAML, is empty, is not a mapping, has a duplicate key or is too large.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            found = "is empty" if node is None else f"holds a {node.id}"
            raise RecipeError(f"{name} {found}: expected 'key: value' lines, such as 'trainer:'")
        lines: dict[Key, int] = {}
        for key, line in _lines(node, ()):
            if key in lines:
                raise RecipeError(
                    f"{name}, line {line}: key '{key_name(key)}' was given on line {lines[key]} too; keep one"
                )
            if len(lines) == MOST_KEYS:
                raise RecipeError(f"{name} has more than {MOST_KEYS} keys and list items, with anchors expanded")
            lines[key] = line
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        context = f" {error.context}" if error.context else ""
        raise RecipeError(f"{name}{place} is not valid YAML:{context} {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecipeError(f"{name} is nested too deeply") from None


def _lines(node: yaml.Node, key: Key) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            below: Key = (*key, str(name.value))
            if name.tag != "tag:yaml.org,2002:merge":
                yield below, name.start_mark.line + 1
            yield from _lines(value, below)
    elif isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield (*key, i), item.start_mark.line + 1
            yield from _lines(item, (*key, i))


def key_name(key: Key) -> str:
    """A key in dotted form: ``('trainer', 'callbacks', 0)`` is trainer.callbacks[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")
