"""Triton's interpreter, made quicker."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


@contextlib.contextmanager
def quick_interpreter() -> Iterator[None]:
    """Halves the interpreter's time: it prepares ``triton.language`` again for every call of a device function.

    Once for each launch and module is enough. What is computed stays the same.
    """
    prepared: set[frozenset[int]] = set()
    prepare, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__

    def prepare_once(function: Any) -> Any:
        modules = filter(inspect.ismodule, function.__globals__.values())
        key = frozenset(id(module) for module in modules if module in (tl, tl.core))
        if key in prepared:
            return interpreter._LangPatchScope()
        prepared.add(key)
        return prepare(function)

    def forgetful_launch(executor: Any, *args: Any, **kwargs: Any) -> Any:
        prepared.clear()
        return launch(executor, *args, **kwargs)

    with (
        mock.patch.object(interpreter, "_patch_lang", prepare_once),
        mock.patch.object(interpreter.GridExecutor, "__call__", forgetful_launch),
        np.errstate(divide="ignore", invalid="ignore", over="ignore"),  # as on a GPU, which warns of nothing
    ):
        yield
