"""Where the kernels run: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter


@pytest.fixture
def device() -> str:
    """The device of the tensors. ``tests/conftest.py`` has Triton interpret the kernels where there is no GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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

    monkeypatch.setattr(interpreter, "_patch_lang", prepare_once)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", forgetful_launch)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # as on a GPU, which warns of nothing
        yield
