"""PyTorch's tests of its own optimizers (TestOptimRenewed in its test/test_optim.py), applied to ours: states."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.optim import Optimizer

from tests.lightning_adafactor.torch_suite.regression import (
    Make,
    Regression,
    assert_same,
    named,
    plain,
)

pytestmark = pytest.mark.usefixtures("path")


@pytest.mark.parametrize("first_named", [False, True])
@pytest.mark.parametrize("second_named", [False, True])
def test_state_dict_makes_a_second_run_equal(make: Make, first_named: bool, second_named: bool) -> None:
    one = Regression()
    optimizer = make(named(one.params, first_named))
    one.train(optimizer, 10)
    other = one.twin()
    resumed = make(named(other.params, second_named))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(10):
        one.train(optimizer, 1)
        other.train(resumed, 1)
        assert_same(one.params, other.params)

    assert_same(plain(optimizer.state_dict())["state"], plain(resumed.state_dict())["state"])
    assert plain(optimizer.state_dict())["param_groups"] == plain(resumed.state_dict())["param_groups"]
    # a parameter that is repeated is written the same
    resumed.param_groups.extend(resumed.param_groups)
    assert plain(optimizer.state_dict())["param_groups"][-1] == plain(resumed.state_dict())["param_groups"][-1]


@pytest.mark.parametrize("first_named", [False, True])
@pytest.mark.parametrize("second_named", [False, True])
def test_names_of_parameters_survive_if_either_side_has_them(make: Make, first_named: bool, second_named: bool) -> None:
    problem = Regression()
    optimizer = make(named(problem.params, first_named))
    problem.train(optimizer, 3)
    other = make(named(problem.params, second_named))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    problem.train(other, 1)

    names = other.state_dict()["param_groups"][0].get("param_names")
    assert names == (["name0", "name1"] if first_named or second_named else None)


def test_older_state_dicts_load(make: Make) -> None:
    """Those that were saved before an argument was added."""
    problem = Regression()
    optimizer = make(problem.params)
    problem.train(optimizer, 3)
    old = copy.deepcopy(optimizer.state_dict())
    for flag in ("foreach", "maximize", "fused", "capturable", "stochastic_rounding", "seed"):
        old["param_groups"][0].pop(flag, None)
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    optimizer.load_state_dict(old)
    problem.train(optimizer, 1)

    assert optimizer.state_dict()["param_groups"] == groups


def test_pickles_of_older_versions_load(make: Make) -> None:
    problem = Regression()
    optimizer = make(problem.params)
    problem.train(optimizer, 3)
    old = optimizer.__getstate__()
    for group in old["param_groups"]:
        group.pop("foreach", None), group.pop("seed"), group.pop("on_nonfinite")
    old["defaults"] = {name: old["defaults"][name] for name in old["defaults"] if name not in ("seed", "on_nonfinite")}
    for state in old["state"].values():
        state["step"] = state["step"].item()
    optimizer.__setstate__(old)
    problem.train(optimizer, 1)

    assert optimizer.state[problem.weight]["step"] == 4
    assert optimizer.param_groups[0]["seed"] == 0


def test_step_may_have_been_saved_as_a_number(make: Make) -> None:
    problem = Regression()
    optimizer = make(problem.params)
    problem.train(optimizer, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = state["step"].item()
    optimizer.load_state_dict(saved)
    problem.train(optimizer, 1)

    assert all(torch.is_tensor(state["step"]) and state["step"] == 4 for state in optimizer.state.values())


@pytest.mark.parametrize("with_names", [False, True])
@pytest.mark.parametrize("weights_only", [False, True])
def test_saved_and_loaded_state_dicts_are_equal(make: Make, with_names: bool, weights_only: bool) -> None:
    problem = Regression()
    optimizer = make(named(problem.params, with_names))
    problem.train(optimizer, 3)
    saved = optimizer.state_dict()
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=weights_only)

    assert_same(loaded["state"], saved["state"])
    assert loaded["param_groups"] == saved["param_groups"]


def test_loading_adds_nothing_to_the_groups(make: Make) -> None:
    optimizer = make(Regression().params)
    before = copy.deepcopy(optimizer.state_dict()["param_groups"])
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())

    assert optimizer.state_dict()["param_groups"] == before


def test_every_state_has_something_in_it(make: Make) -> None:
    problem = Regression()
    optimizer = make(problem.params)
    problem.train(optimizer, 1)

    assert len(optimizer.state) == 2
    assert all(optimizer.state.values())


def test_deepcopy_copies_all_public_attributes(make: Make) -> None:
    problem = Regression()
    optimizer = make(problem.params)
    problem.train(optimizer, 3)

    def public(of: Optimizer) -> set[str]:
        return {name for name in vars(of) if not name.startswith("_")}

    assert public(copy.deepcopy(optimizer)) == public(optimizer)


def test_deepcopy_steps_independently(make: Make) -> None:
    problem = Regression()
    optimizer = make(problem.params)
    problem.train(optimizer, 3)
    other, copied = copy.deepcopy((problem, optimizer))
    problem.train(optimizer, 2)
    other.train(copied, 2)

    assert_same(other.params, problem.params)
    assert_same(copied.state_dict()["state"], optimizer.state_dict()["state"])


def test_unpickled_optimizer_steps_independently(make: Make) -> None:
    problem = Regression()
    optimizer = make(problem.params)
    problem.train(optimizer, 3)
    params, copied = pickle.loads(pickle.dumps((problem.params, optimizer)))
    for param, original in zip(params, problem.params, strict=True):
        param.grad = original.grad.clone()
    optimizer.step()
    copied.step()

    assert_same(params, problem.params)


def test_it_can_be_printed(make: Make) -> None:
    text = repr(make(Regression().params))

    assert "Adafactor (" in text
    assert "weight_decay:" in text
