"""Settings as they were given, and where: in which line of which file, or on the command line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from recipes.cli.config_files import ConfigFile, Key

MISSING: Any = object()
"""The value of an option that was given without one."""
NULL = "null"
"""The word on the command line that stands for None."""


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


def holds_null(value: Any) -> bool:
    """Whether a value is null, or holds one at any depth."""
    if isinstance(value, Mapping):
        return any(map(holds_null, value.values()))
    return any(map(holds_null, value)) if isinstance(value, list) else value in (None, NULL)


def plain_keys(settings: Mapping[str, Any], group: str) -> Iterator[str]:
    """The dotted keys below a group in their short form: model.optimizer.lr, without ``init_args``."""
    for key, _ in flatten(settings):
        if key.startswith(f"{group}."):
            yield plain_key(key)


def plain_key(key: str) -> str:
    """A dotted key in its short form."""
    return key.replace(".init_args.", ".")
