"""Settings as they were given, and where: in which line of which file, or on the command line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recipes.cli.config_files import ConfigFile, Key

MISSING: Any = object()
"""The value of an option that was given without one."""


@dataclass(frozen=True)
class Given:
    """Settings from one source: all of a file, or one option of the command line."""

    settings: Mapping[str, Any]
    file: ConfigFile | None = None

    def where(self, key: Key) -> str:
        """File and line of a key, as the beginning of a message; empty for the command line."""
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
    """The dotted keys below a group in their short form: model.optimizer.lr, without ``init_args``."""
    for key, _ in flatten(settings):
        if key.startswith(f"{group}."):
            yield _plain(key)


def kept_arguments(given: Sequence[Given], config: Mapping[str, Any]) -> Iterator[str]:
    """Finds arguments that were given for one class and that another class, named later, keeps.

    A learning rate chosen for one optimizer is seldom right for another, yet jsonargparse keeps it.

    Args:
        given: The settings in the order in which they were given.
        config: The merged settings.

    Returns:
        A sentence for each of them.
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
