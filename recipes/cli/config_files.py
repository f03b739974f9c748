"""Finding and reading the YAML files named with ``--config``."""

import os
from collections.abc import Iterator
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

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file: its settings, and the line (from 1) on which each key stands."""

    path: Path
    settings: dict[str, Any]
    lines: dict[Key, int]


def is_inline(value: str) -> bool:
    """Whether the value of ``--config`` is YAML itself and not the name of a file."""
    return "\n" in value or value.lstrip().startswith("{")


def find_config(name: str, option: str = "--config") -> Path:
    """The file that ``--config name`` means: looked for in the working folder, then in ``configs/``.

    Args:
        name: The file's name.
        option: The option that it follows, for error messages.

    Raises:
        RecipeError: Nothing is there; names the folders looked in and the files with a similar name.
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
    """The sentence's end that names existing files, best match first."""
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
    """A path as short as it can be said from the working folder."""
    try:
        relative = path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        return f"{path}{os.sep}"
    return "the working folder" if relative == Path(".") else f"{relative}{os.sep}"


def read_config(path: Path) -> ConfigFile:
    """Reads a YAML file and notes on which line each key stands.

    Raises:
        RecipeError: The file cannot be read, is no valid YAML, is empty, is no mapping, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        settings = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        context = f" {error.context}" if error.context else ""
        raise RecipeError(f"{path}{line} is not valid YAML:{context} {error.problem}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        found = "is empty" if node is None else f"holds a {node.id}"
        raise RecipeError(f"{path} {found}: expected 'key: value' lines, such as 'trainer:'")
    lines: dict[Key, int] = {}
    for key, number in _lines(node, ()):
        if key in lines:
            raise RecipeError(
                f"{path}, line {number}: key '{key_name(key)}' was given on line {lines[key]} too; keep one"
            )
        lines[key] = number
    return ConfigFile(path, settings, lines)


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
    """A key as it is written: ``('trainer', 'callbacks', 0)`` is trainer.callbacks[0]."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")
