"""``${...}`` in settings: references on the command line, and messages for references that cannot be resolved."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from recipes.cli.given import Given, flatten
from recipes.messages import RecipeError

REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.\[\]]*)\}")
WRAPPED = re.compile(r"^\w+ raised while resolving interpolation: (.*)$", re.DOTALL)
MISSING = re.compile(r"Interpolation key '([^']*)' not found")


def absolute_in(command: str, value: str) -> str:
    """Makes ``${trainer.max_epochs}`` in the value of an option absolute: ``${fit.trainer.max_epochs}``.

    jsonargparse makes references in a file relative, but not those in the value of an option.
    """
    return REFERENCE.sub(rf"${{{command}.\1}}", value)


def explain_interpolation(error: OmegaConfBaseException, command: str, given: Sequence[Given]) -> RecipeError:
    """The error for a ``${...}`` that cannot be resolved: file and line, key, reason, nearest key."""
    key = str(error.full_key or "").removeprefix(f"{command}.")
    message = str(error.msg or error).splitlines()[0]
    place, value = _last_given(key, given)
    is_value = f"is '{value}'" if value else "holds a ${...}"
    if missing := MISSING.search(message):
        wanted = missing[1].lstrip(".").removeprefix(f"{command}.")
        known = sorted({name for source in given for name, _ in flatten(source.settings)})
        near = get_close_matches(wanted, known, n=1)
        hint = f"; did you mean ${{{near[0]}}}?" if near else ""
        return RecipeError(f"{place}{key} {is_value}, and there is no key '{wanted}'{hint}")
    if wrapped := WRAPPED.search(message):
        message = wrapped[1].strip("'\"")
    return RecipeError(f"{place}{key} {is_value}, which cannot be resolved: {message}")


def _last_given(key: str, given: Sequence[Given]) -> tuple[str, str]:
    """Where a key was given last, as the beginning of a message, and its value there."""
    path = tuple(key.split("."))
    for source in reversed(given):
        value: Any = source.settings
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            return source.where(path), value
    return "", ""
