"""The state of the fused step: loaded, saved, copied, and taken over from other steps."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor.fused import harness
from tests.lightning_adafactor.fused.harness import (
    SHAPES,
    TOLERANCE,
    assert_same_bits,
    assert_same_params,
    bits,
    pair,
    random_gradients,
    random_params,
    train,
)

SWITCHES = [
    # Each pair of a class, a dtype and a direction; what is left of all combinations are slow tests.
    pytest.param(
        of,
        dtype,
        fused_first,
        marks=[pytest.mark.slow] * ((i + j + k) % 2),
        id=f"{of.__name__}-{dtype}-{'fused-to-plain' if fused_first else 'plain-to-fused'}",
    )
    for i, of in enumerate((Adafactor, TransformersAdafactor))
    for j, dtype in enumerate((torch.float32, torch.bfloat16))
    for k, fused_first in enumerate((True, False))
]


@pytest.mark.parametrize(("of", "dtype", "fused_first"), SWITCHES)
def test_state_goes_from_one_path_to_the_other_mid_run(
    of: Any, dtype: torch.dtype, fused_first: bool, device: str
) -> None:
    def optimizer(fused: bool) -> Adafactor:
        params = random_params(SHAPES, dtype, device)
        return harness.fused(params, of, beta1=0.9) if fused else of(params, beta1=0.9, fused=False, compiled=False)

    first, second, throughout = optimizer(fused_first), optimizer(not fused_first), optimizer(False)
    train(first, random_gradients, [1, 2])
    for param, trained in zip(second.param_groups[0]["params"], first.param_groups[0]["params"], strict=True):
        param.data.copy_(trained.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.param_groups[0]["fused"] = not fused_first  # state_dict() carries it along
    train(second, random_gradients, [3, 4])
    train(throughout, random_gradients, [1, 2, 3, 4])

    for param, expected in zip(second.param_groups[0]["params"], throughout.param_groups[0]["params"], strict=True):
        if dtype == torch.float32:
            assert harness.relative_error(param, expected) < 2 * TOLERANCE
        else:
            assert (param != expected).sum() <= 1
        assert second.state[param].keys() == throughout.state[expected].keys()
        for key, value in throughout.state[expected].items():
            assert second.state[param][key].dtype == torch.float32
            assert second.state[param][key].shape == value.shape
            assert harness.relative_error(second.state[param][key], value) < (1e-5 if dtype == torch.float32 else 1e-2)


def test_step_is_float32_on_the_device_of_its_parameter(device: str) -> None:
    optimizer = harness.fused(random_params([(4, 4)], torch.bfloat16, device))
    train(optimizer, random_gradients, [1, 2])
    (state,) = optimizer.state.values()
    assert state["step"].device.type == device
    assert state["step"].dtype == torch.float32
    assert state["step"].shape == ()
    assert state["step"] == 2


def test_nothing_of_the_table_is_in_state_dict(device: str) -> None:
    optimizer = harness.fused(random_params([(4, 6)], torch.float32, device))
    train(optimizer, random_gradients, [1])
    saved = optimizer.state_dict()
    assert saved["state"][0].keys() == {"step", "row_var", "col_var"}
    assert saved.keys() == {"state", "param_groups"}


def test_a_loaded_state_is_used_though_the_table_was_built_before(device: str) -> None:
    ours, theirs = pair([(8, 8), (5,)], device)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1])
        saved = copy.deepcopy(optimizer.state_dict())
        train(optimizer, random_gradients, [2, 3])
        optimizer.load_state_dict(saved)
        train(optimizer, random_gradients, [4])
    assert_same_params(ours, theirs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_copies_step_independently(copied: Any, device: str) -> None:
    ours, theirs = pair([(16, 24), ()], device)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1])
    clone = copied(ours)
    before = bits(ours)
    train(clone, random_gradients, [2])
    assert_same_bits(bits(ours), before)
    train(theirs, random_gradients, [2])
    assert_same_params(clone, theirs)
