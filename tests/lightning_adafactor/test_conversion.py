"""States of torch.optim.Adafactor and transformers.Adafactor, loaded and continued."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from lightning_adafactor import Adafactor, TransformersAdafactor
from lightning_adafactor.conversion import convert_group, convert_param_state, convert_state_dict
from tests.lightning_adafactor.specs import torch_state

Make = Callable[..., torch.optim.Optimizer]

SHAPES = [(6, 4), (5,), (), (3, 4, 5), (2, 3, 3, 3)]
CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}
SAME_DIALECT = [
    pytest.param(torch.optim.Adafactor, Adafactor, {"lr": 0.02, "weight_decay": 0.1, "d": 1.5}, id="torch"),
    pytest.param(Adafactor, Adafactor, {"lr": 0.02, "beta1": 0.9, "relative_step": False}, id="ours"),
    pytest.param(transformers.Adafactor, TransformersAdafactor, {}, id="transformers"),
    pytest.param(transformers.Adafactor, TransformersAdafactor, {"beta1": 0.9, **CONSTANT_LR}, id="constant lr"),
    pytest.param(TransformersAdafactor, TransformersAdafactor, {"beta1": 0.9, "warmup_init": True}, id="ours, renamed"),
]


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def take_steps(optimizer: torch.optim.Optimizer, *steps: int) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            for param in group["params"]:
                param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        optimizer.step()


def states(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    return [torch_state(optimizer.state[p]) for group in optimizer.param_groups for p in group["params"]]


def through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(("theirs", "ours", "options"), SAME_DIALECT)
def test_resumed_run_equals_an_uninterrupted_one(theirs: Make, ours: Make, options: dict[str, Any]) -> None:
    params = parameters()
    original = theirs(params, **options)
    take_steps(original, 1, 2, 3)
    copies = [nn.Parameter(param.detach().clone()) for param in params]
    resumed = ours(copies, **options)
    resumed.load_state_dict(through_a_file(original.state_dict()))
    take_steps(original, 4, 5)
    take_steps(resumed, 4, 5)

    torch.testing.assert_close(copies, params, rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(states(resumed), states(original), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("theirs", [torch.optim.Adafactor, transformers.Adafactor])
@pytest.mark.parametrize("ours", [Adafactor, TransformersAdafactor])
def test_state_keeps_its_numbers_under_torchs_names(theirs: Make, ours: Make) -> None:
    original = theirs(parameters())
    take_steps(original, 1, 2)
    loaded = ours(parameters())
    loaded.load_state_dict(original.state_dict())

    torch.testing.assert_close(states(loaded), states(original), rtol=0, atol=0)
    names = {name for state in loaded.state.values() for name in state}
    assert names == {"step", "row_var", "col_var", "variance"} | ({"RMS"} if ours is TransformersAdafactor else set())
    assert all(torch.is_tensor(value) for state in loaded.state.values() for value in state.values())
    take_steps(loaded, 3)


@pytest.mark.parametrize("rms", [0, 0.5, torch.tensor(0.5)])
def test_rms_may_have_been_saved_as_a_number(rms: Any) -> None:
    original = transformers.Adafactor(parameters())
    take_steps(original, 1)
    saved = original.state_dict()
    for state in saved["state"].values():
        state["RMS"] = rms
    for ours in (Adafactor, TransformersAdafactor):
        loaded = ours(parameters())
        loaded.load_state_dict(saved)
        kept = [float(state["RMS"]) for state in loaded.state.values() if "RMS" in state]
        assert kept == [float(rms)] * (len(loaded.state) if ours is TransformersAdafactor else 0)
        take_steps(loaded, 2)

    assert loaded.state[loaded.param_groups[0]["params"][0]]["RMS"].shape == ()


@pytest.mark.parametrize("ours", [Adafactor, TransformersAdafactor])
def test_steps_and_loading_ignore_the_default_device(ours: Make) -> None:
    def train(default: str) -> torch.optim.Optimizer:
        params = parameters()
        first = ours(params)
        take_steps(first, 0, 1)
        with torch.device(default):
            second = ours(params)
            second.load_state_dict(first.state_dict())
            second.step()
        return second

    torch.testing.assert_close(states(train("meta")), states(train("cpu")), rtol=0, atol=0)


def test_bf16_state_of_torch_becomes_fp32() -> None:
    original = torch.optim.Adafactor(parameters(torch.bfloat16))
    take_steps(original, 1)
    loaded = Adafactor(parameters(torch.bfloat16))
    loaded.load_state_dict(original.state_dict())
    take_steps(loaded, 2)

    assert {value.dtype for state in loaded.state.values() for value in state.values()} == {torch.float32}


@pytest.mark.parametrize("ours", [Adafactor, TransformersAdafactor])
def test_state_follows_the_dtype_of_the_arithmetic(ours: Make) -> None:
    narrow = ours(parameters(), beta1=0.9)
    take_steps(narrow, 1)
    wide = ours(parameters(torch.float64), beta1=0.9)
    wide.load_state_dict(narrow.state_dict())
    averages = [v for state in wide.state.values() for name, v in state.items() if name != "step"]
    assert {value.dtype for value in averages} == {torch.float64}

    narrow.load_state_dict(wide.state_dict())
    assert {value.dtype for state in narrow.state.values() for value in state.values()} == {torch.float32}


def test_loaded_state_shares_no_memory_with_the_saved_one() -> None:
    original = Adafactor(parameters(), beta1=0.9)
    take_steps(original, 1)
    saved = original.state_dict()
    before = copy.deepcopy(saved)
    loaded = Adafactor(parameters(), beta1=0.9)
    loaded.load_state_dict(saved)
    take_steps(loaded, 2)

    torch.testing.assert_close(saved["state"], before["state"], rtol=0, atol=0)
    assert saved["param_groups"] == before["param_groups"]


def test_saved_state_of_transformers_is_left_unchanged() -> None:
    original = transformers.Adafactor(parameters())
    take_steps(original, 1)
    saved = original.state_dict()
    keys = [list(state) for state in saved["state"].values()]
    loaded = TransformersAdafactor(parameters())
    loaded.load_state_dict(saved)
    take_steps(loaded, 2)

    assert [list(state) for state in saved["state"].values()] == keys
    assert saved["param_groups"] == original.state_dict()["param_groups"]


def test_torch_loads_our_state() -> None:
    ours, theirs = Adafactor(parameters(), lr=0.02), torch.optim.Adafactor(parameters(), lr=0.5)
    take_steps(ours, 1, 2)
    theirs.load_state_dict(ours.state_dict())
    take_steps(theirs, 3)

    assert theirs.param_groups[0]["lr"] == 0.02
    assert states(theirs)[0]["step"] == 3


# Groups ------------------------------------------------------------------------------------------------------------

TORCH_GROUP = torch.optim.Adafactor([torch.zeros(1)]).state_dict()["param_groups"][0]
TRANSFORMERS_GROUP = transformers.Adafactor([torch.zeros(1)]).state_dict()["param_groups"][0]
OURS = Adafactor([torch.zeros(1)], lr=0.3, eps=(1e-9, 0.5), d=4.0).state_dict()["param_groups"][0]
OURS_RENAMED = TransformersAdafactor([torch.zeros(1)], eps=(1e-9, 0.5), clip_threshold=4.0).state_dict()[
    "param_groups"
][0]


def changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def test_keys_that_were_not_saved_keep_their_values() -> None:
    after = convert_group(TORCH_GROUP, OURS)

    assert after.keys() == OURS.keys()
    assert changed(OURS, after) == {"lr": 0.01, "eps": (None, 1e-3), "d": 1.0}


def test_group_of_transformers_becomes_torchs() -> None:
    saved = {
        **TRANSFORMERS_GROUP,
        "lr": 0.2,
        "clip_threshold": 2.0,
        "decay_rate": -0.5,
        "beta1": 0.9,
        "weight_decay": 0.1,
    }
    after = convert_group({**saved, "relative_step": False}, OURS)

    assert after.keys() == OURS.keys()
    assert changed(OURS, after) == {
        "lr": 0.2,
        "eps": (1e-30, 1e-3),
        "d": 2.0,
        "beta2_decay": -0.5,
        "beta1": 0.9,
        "weight_decay": 0.1,
        "relative_step": False,
    }


def test_learning_rate_of_none_becomes_transformers_cap() -> None:
    assert convert_group(TRANSFORMERS_GROUP, OURS)["lr"] == 1e-2


@pytest.mark.parametrize("lr", [0.0, 3e-4, torch.tensor(3e-4)], ids=str)
def test_learning_rate_that_transformers_does_not_read_becomes_its_cap(lr: float | Tensor) -> None:
    relative = {**TRANSFORMERS_GROUP, "relative_step": True}
    assert convert_group({**relative, "lr": lr}, OURS)["lr"] == 1e-2  # AdafactorSchedule sets it, and leaves it at 0
    assert convert_group({**relative, "relative_step": False, "lr": lr}, OURS)["lr"] is lr


def test_group_of_torch_becomes_transformers() -> None:
    saved = {**TORCH_GROUP, "d": 2.0, "beta2_decay": -0.5, "weight_decay": 0.1}
    after = convert_group(saved, OURS_RENAMED)

    assert changed(OURS_RENAMED, after) == {
        "eps": (1e-9, 1e-3),  # ε₁ = None has no meaning there
        "clip_threshold": 2.0,
        "decay_rate": -0.5,
        "weight_decay": 0.1,
        "foreach": None,
    }


def test_learning_rate_of_torch_is_loaded_unless_it_is_only_a_cap() -> None:
    own = {**OURS_RENAMED, "relative_step": False, "lr": 0.5}

    assert convert_group({**TORCH_GROUP, "lr": 0.2}, own)["lr"] == 0.2
    assert convert_group({**TORCH_GROUP, "lr": 0.2}, OURS_RENAMED)["lr"] is None


@pytest.mark.parametrize("own", [OURS, OURS_RENAMED])
def test_group_of_the_same_class_is_loaded_unchanged(own: dict[str, Any]) -> None:
    saved = {**own, "lr": 0.7, "initial_lr": 0.9, "param_names": ["a"], "params": [3]}

    assert convert_group(saved, own) == saved


def test_keys_of_other_libraries_groups_are_kept() -> None:
    """A scheduler's ``initial_lr``, a user's own names."""
    assert convert_group({**TORCH_GROUP, "initial_lr": 0.3, "name": "decay"}, OURS)["name"] == "decay"


def test_number_of_groups_is_checked_by_the_optimizer() -> None:
    saved = {"state": {}, "param_groups": [TORCH_GROUP, TORCH_GROUP]}

    assert len(convert_state_dict(saved, [OURS])["param_groups"]) == 2
    with pytest.raises(ValueError, match="different number of parameter groups"):
        Adafactor(parameters()).load_state_dict(saved)


def test_number_of_parameters_is_checked_by_the_optimizer() -> None:
    optimizer = Adafactor(parameters())
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        Adafactor(parameters()[:-1]).load_state_dict(saved)


def test_failed_loading_leaves_no_hooks_behind() -> None:
    optimizer = Adafactor(parameters())
    with pytest.raises(ValueError, match="different number"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})

    optimizer.load_state_dict(Adafactor(parameters()).state_dict())
    assert not optimizer._optimizer_load_state_dict_pre_hooks
    assert not optimizer._optimizer_load_state_dict_post_hooks


def test_state_that_is_not_a_dict_is_loaded_unchanged() -> None:
    assert convert_param_state(1) == 1
    assert convert_state_dict({"state": {"of a hook": 1}, "param_groups": []}, [])["state"] == {"of a hook": 1}
