"""A setting as the user gave it, and the place where it was given."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.cli.config_files import ConfigFile, Key

MISSING: Any = object()
"""Stands for the value of an option that was typed without one."""


@dataclass(frozen=True)
class Given:
    """Settings as they were given: all of one file, or one option of the command line."""

    settings: Mapping[str, Any]
    file: ConfigFile | None = None

    def where(self, key: Key) -> str:
        """A sentence's beginning: file and line, or nothing for the command line."""
        if self.file is None:
            return ""
        line = self.file.lines.get(key)
        return f"{self.file.path}, line {line}: " if line else f"{self.file.path}: "


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted key, value); lists and empty mappings count as values."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def plain_keys(settings: Mapping[str, Any], group: str) -> Iterator[str]:
    """The dotted keys below a group as they may be typed: model.optimizer.lr, without ``init_args``."""
    for key, _ in flatten(settings):
        if key.startswith(f"{group}."):
            yield _plain(key)


def kept_arguments(given: Sequence[Given], config: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for every argument given for one class that has gone over to the class put in its place.

    The rate chosen for one optimizer is seldom right for another, yet it stays unless it is given anew.

    Args:
        given: The settings in the order they were given.
        config: The settings that came of them.
    """
    classes: dict[str, str] = {}
    arguments: dict[str, dict[str, tuple[Any, Given]]] = {}
    for source in given:
        settings = list(flatten(source.settings))
        for key, value in settings:
            owner, _, argument = key.rpartition(".init_args.")
            if owner and not argument.endswith("class_path"):
                arguments.setdefault(_plain(owner), {})[argument] = (value, source)
        for key, value in settings:
            name = _plain(key.removesuffix(".class_path"))
            if not key.endswith(".class_path") and name not in classes:
                continue
            before, classes[name] = classes.get(name, value), value
            if before == value:
                continue
            for kept, (old, origin) in arguments.get(name, {}).items():
                if origin is not source and str(_at(config, f"{name}.{kept}")) == str(old):
                    place = origin.file.path if origin.file else "the command line"
                    yield f"{name} is now {value} and keeps {kept} = {old}, which {place} gave for {before}"


def _plain(key: str) -> str:
    return key.replace(".init_args.", ".")


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(config, Mapping) and part not in config:
            config = config.get("init_args")
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
