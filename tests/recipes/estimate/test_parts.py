"""An optimizer whose step cannot be taken here is a candidate without a state."""

from functools import partial

import pytest
import torch

from recipes.estimate.parts import Candidate


class GpuOnly(torch.optim.SGD):
    """Seems to be from a library whose kernels are for GPUs."""


GpuOnly.__module__ = "flashoptim.optimizers"


def test_the_state_of_an_optimizer_for_gpus_is_unknown_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    candidate = Candidate.made_by(partial(GpuOnly, lr=0.1), "flash", "flashoptim.FlashAdamW")

    assert candidate.make is None
    assert candidate.unsupported_reason == "FlashOptim's kernels need an NVIDIA GPU"


class Compiling(torch.optim.SGD):
    """Seems to be from a library that compiles CUDA kernels in its first step."""


Compiling.__module__ = "gefen.gefen"


def test_the_state_of_an_optimizer_that_would_compile_kernels_first_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    candidate = Candidate.made_by(partial(Compiling, lr=0.1), "gefen", "gefen.Gefen")

    assert candidate.make is None
    assert candidate.unsupported_reason.startswith("unknown before its library has compiled its CUDA kernels")
