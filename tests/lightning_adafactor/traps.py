"""What the tests of other implementations' faults share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_adafactor import Adafactor, TransformersAdafactor

Make = Callable[..., Adafactor]

BOTH = pytest.mark.parametrize("make", [Adafactor, TransformersAdafactor])
CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}


def parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    param = nn.Parameter(torch.randn(shape).to(dtype))
    param.grad = torch.randn(shape).to(dtype)
    return param


def snapshot(optimizer: torch.optim.Optimizer) -> tuple[list[Tensor], dict[int, Any]]:
    params = [param.detach().clone() for group in optimizer.param_groups for param in group["params"]]
    state = optimizer.state_dict()["state"]
    return params, {k: {n: torch.as_tensor(v).clone() for n, v in s.items()} for k, s in state.items()}
