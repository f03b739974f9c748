"""Where the kernels run: on a GPU where there is one, else in Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.lightning_adafactor.fused.quick import quick_interpreter


@pytest.fixture
def device() -> str:
    """The device of the tensors. ``tests/conftest.py`` has Triton interpret the kernels where there is no GPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """The interpreter, made quicker."""
    with quick_interpreter():
        yield
