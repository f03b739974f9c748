"""Functions for ``Dataset.map`` and ``filter`` whose cache entries depend on their code."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.checksums import file_sha256


class Cached:
    """A function with the checksum of its source file.

    ``datasets`` identifies a function of a module by its name: after a change in that module it would still use the
    results of the old code. Here the checksum is part of the fingerprint, so a changed file makes a new cache entry.

    Args:
        function: The function, or a callable object.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        code = function if inspect.isroutine(function) else type(function)
        self.code_sha256 = file_sha256(Path(inspect.getfile(code)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function."""
        return self.function(*args, **kwargs)
