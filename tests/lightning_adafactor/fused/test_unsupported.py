"""Where the fused step is not supported, it is refused with the reason."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton

from lightning_adafactor import Adafactor, fused
from lightning_adafactor.fused.fields import MAX_DIMS


def test_float64_is_refused_with_the_reason(device: str) -> None:
    with pytest.raises(RuntimeError, match=r"fused=True is not supported: the kernels support .* not float64"):
        Adafactor([torch.zeros(2, dtype=torch.float64, device=device, requires_grad=True)], fused=True)


def test_too_many_dimensions_are_refused_with_the_reason(device: str) -> None:
    with pytest.raises(RuntimeError, match=f"up to {MAX_DIMS} dimensions, not {MAX_DIMS + 1}"):
        Adafactor([torch.zeros((1,) * (MAX_DIMS + 1), device=device, requires_grad=True)], fused=True)


def test_elements_that_share_memory_are_refused_with_the_reason(device: str) -> None:
    with pytest.raises(RuntimeError, match=r"fused=True is not supported: several elements .* share memory"):
        Adafactor([torch.zeros(1, 64, device=device).expand(8, 64).requires_grad_()], fused=True)


def test_foreach_and_fused_exclude_each_other(device: str) -> None:
    with pytest.raises(RuntimeError, match="`fused` and `foreach` cannot be `True` together"):
        Adafactor([torch.zeros(2, device=device)], fused=True, foreach=True)


WHAT_IS_MISSING = """
import importlib.util, json, sys
find = importlib.util.find_spec
import torch, lightning_adafactor
param = torch.zeros(3, 3, requires_grad=True)
param.grad = torch.ones(3, 3)

def refused(**arguments):
    lightning_adafactor.Adafactor([param]).step()  # without arguments, another implementation takes the step
    try:
        lightning_adafactor.Adafactor([param], **arguments).step()
    except RuntimeError as error:
        return str(error)

found = {"fused": refused(fused=True), "capturable": refused(capturable=True)}
for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
    del sys.modules[name]
sys.modules["triton"] = None
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
for cached in ("_triton_is_installed", "_unsupported_reason"):
    getattr(lightning_adafactor.fused, cached).cache_clear()
found["triton"] = refused(fused=True)
print(json.dumps(found))
"""


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Takes away what the kernels need."""
    for cached in (fused._unsupported_reason, fused._launcher_problem):
        cached.cache_clear()
    yield monkeypatch
    for cached in (fused._unsupported_reason, fused._launcher_problem):
        cached.cache_clear()


@pytest.mark.parametrize("argument", ["fused", "capturable"])
def test_the_error_names_a_gpu_and_the_interpreter_where_both_are_missing(
    argument: str, missing: pytest.MonkeyPatch
) -> None:
    missing.setattr(fused, "_kernels_are_interpreted", lambda: False)
    param = torch.zeros(2, 2, requires_grad=True)
    param.grad = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match=rf"{argument}=True is not .* need a CUDA device \(TRITON_INTERPRET=1"):
        Adafactor([param], **{argument: True}).step()


def test_the_error_names_triton_where_it_is_missing(missing: pytest.MonkeyPatch) -> None:
    missing.setattr(fused, "_triton_is_installed", lambda: False)
    with pytest.raises(RuntimeError, match="fused=True is not supported: Triton is not installed"):
        Adafactor([torch.zeros(2, 2, requires_grad=True)], fused=True)


def test_where_triton_cannot_build_its_launcher_the_reason_says_so(missing: pytest.MonkeyPatch) -> None:
    class WithoutCompiler:
        @property
        def active(self) -> Any:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    missing.setattr(torch.cuda, "is_available", lambda: True)
    missing.setattr(triton.runtime, "driver", WithoutCompiler())
    reason = r"^Triton cannot launch kernels here \(Failed to find C compiler\. Please .*\)\. Often a C compiler"
    with pytest.warns(UserWarning, match="Adafactor's step in Triton kernels is not available: Triton cannot launch"):
        found = fused._unsupported_reason(torch.float32, 2, "cuda", torch.Tensor)
    assert re.search(reason, found or "")


@pytest.mark.slow
def test_in_a_process_without_them_the_error_names_gpu_and_interpreter_or_triton() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", WHAT_IS_MISSING], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    for argument in ("fused", "capturable"):
        assert f"{argument}=True is not supported" in found[argument]
        assert "need a CUDA device" in found[argument]
        assert "TRITON_INTERPRET=1" in found[argument]
    assert "fused=True is not supported: Triton is not installed" in found["triton"]
