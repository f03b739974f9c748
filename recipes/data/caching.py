"""Functions for ``Dataset.map`` and ``filter`` whose results go out of the cache with the code that made them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipes.checksums import file_sha256


class Cached:
    """A function, and the sum of the file that it is written in.

    ``datasets`` knows a function of a module by its name alone: after a change in that module it would go on with
    what the old code has made. The sum is part of what it takes for the function, so a new file makes a new entry.

    Args:
        function: The function, or an object that is called as one.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        code = function if inspect.isroutine(function) else type(function)
        self.code_sha256 = file_sha256(Path(inspect.getfile(code)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function returns."""
        return self.function(*args, **kwargs)
