"""bf16-mixed stays, except on CPUs that are slow with it."""

from typing import Any

import pytest
import torch

from recipes.training import precision
from recipes.training.precision import other_precision


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
    for given in ("bf16-mixed", "16-mixed"):
        replaced = other_precision(trainer(accelerator=accelerator, precision=given))
        assert replaced is not None
        precision, reason = replaced
        assert precision == "32-true"
        assert f"32-true instead of {given}" in reason
        assert "AVX2" in reason


@pytest.mark.parametrize(("machine", "capability"), [("x86_64", "AVX512"), ("aarch64", "DEFAULT")])
def test_other_cpus_keep_it(machine: str, capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, machine, capability)
    assert other_precision(trainer()) is None


def test_16_mixed_becomes_bf16_mixed_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, "aarch64", "DEFAULT")
    replaced = other_precision(trainer(precision="16-mixed"))
    assert replaced == ("bf16-mixed", "trainer.precision is bf16-mixed instead of 16-mixed, which needs a GPU")


@pytest.mark.parametrize("given", [None, "32-true", "bf16-true", "16-true"])
def test_other_precisions_stay(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, "x86_64", "AVX2")
    assert other_precision(trainer(precision=given)) is None


def test_a_gpu_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(monkeypatch, "x86_64", "AVX2")
    assert other_precision(trainer(accelerator="gpu")) is None
    assert other_precision(trainer(accelerator="gpu", precision="16-mixed")) is None
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert other_precision(trainer()) is None
