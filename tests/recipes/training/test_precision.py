"""bf16-mixed stays, except on CPUs that are slow with it."""

from typing import Any

import pytest
import torch

from recipes.training import precision
from recipes.training.precision import float32_instead


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def cpu(monkeypatch: pytest.MonkeyPatch, machine: str, capability: str) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)


def trainer(**settings: Any) -> dict[str, Any]:
    return {"precision": "bf16-mixed", "accelerator": "auto", **settings}


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_without_avx_512_it_is_replaced_and_the_reason_given(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, "x86_64", "AVX2")
    reason = float32_instead(trainer(accelerator=accelerator))
    assert reason is not None
    assert "32-true instead of bf16-mixed" in reason
    assert "AVX2" in reason


@pytest.mark.parametrize(("machine", "capability"), [("x86_64", "AVX512"), ("aarch64", "DEFAULT")])
def test_other_cpus_keep_it(machine: str, capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, machine, capability)
    assert float32_instead(trainer()) is None


@pytest.mark.parametrize("given", [None, "32-true", "bf16-true", "16-mixed"])
def test_other_precisions_stay(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, "x86_64", "AVX2")
    assert float32_instead(trainer(precision=given)) is None


def test_a_gpu_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, "x86_64", "AVX2")
    assert float32_instead(trainer(accelerator="gpu")) is None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert float32_instead(trainer()) is None
