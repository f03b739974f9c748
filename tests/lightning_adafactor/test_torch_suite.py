"""PyTorch's tests of its own optimizers (TestOptimRenewed in its test/test_optim.py), applied to ours.

PyTorch runs one set of tests over every optimizer and its options; the tests are not in its wheels. These check the
same behaviour, one test for one of theirs, over the options that PyTorch lists for its Adafactor and our own.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lightning_adafactor import Adafactor, TransformersAdafactor

pytestmark = pytest.mark.usefixtures("path")

CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}
CONFIGURATIONS: dict[str, tuple[type[Adafactor], dict[str, Any]]] = {
    "defaults": (Adafactor, {}),
    "weight_decay": (Adafactor, {"weight_decay": 0.1, "lr": 0.01}),
    "maximize": (Adafactor, {"weight_decay": 0.1, "maximize": True}),
    "beta2_decay": (Adafactor, {"beta2_decay": -1.0}),
    "d": (Adafactor, {"d": 1.5}),
    "foreach": (Adafactor, {"foreach": True}),
    "momentum": (Adafactor, {"beta1": 0.9}),
    "constant lr": (Adafactor, CONSTANT_LR),
    "warmup": (Adafactor, {"warmup_init": True}),
    "transformers": (TransformersAdafactor, {}),
    "transformers, momentum": (TransformersAdafactor, {"beta1": 0.9}),
    "transformers, constant lr": (TransformersAdafactor, {"weight_decay": 0.1, **CONSTANT_LR}),
}

Make = Callable[..., Adafactor]


SLOW = ("beta2_decay", "d", "warmup", "transformers, constant lr")
"""They change numbers alone, which test_parity.py compares; their tests here are slow ones."""


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CONFIGURATIONS]
)
def configuration(request: pytest.FixtureRequest) -> tuple[type[Adafactor], dict[str, Any]]:
    return CONFIGURATIONS[request.param]


@pytest.fixture
def make(configuration: tuple[type[Adafactor], dict[str, Any]]) -> Make:
    """Makes an optimizer with the options of the configuration, or others in their place."""
    optimizer_class, options = configuration
    return lambda params, **others: optimizer_class(params, **{**options, **others})


@pytest.fixture
def make_with_lr(configuration: tuple[type[Adafactor], dict[str, Any]]) -> Make:
    """The same, where an ``lr`` is to be given: transformers' dialect takes one without relative steps only."""
    optimizer_class, options = configuration
    if optimizer_class is TransformersAdafactor:
        options = {**options, "relative_step": False, "warmup_init": False}
    return lambda params, **others: optimizer_class(params, **{**options, "lr": 1e-2, **others})


class Regression:
    """A weight, a bias, and a loss that falls."""

    def __init__(self, lay_out: Callable[[Tensor], Tensor] = Tensor.clone) -> None:
        self.weight = nn.Parameter(lay_out(torch.randn(10, 5)))
        self.bias = nn.Parameter(torch.randn(10))
        self.input = torch.randn(5)
        self.params = [self.weight, self.bias]

    def loss(self) -> Tensor:
        return (self.weight.mv(self.input) + self.bias).square().sum()

    def train(self, optimizer: Optimizer, steps: int, schedulers: tuple[LRScheduler, ...] = ()) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()
            optimizer.step()
            for scheduler in schedulers:
                args = (loss.item(),) if isinstance(scheduler, ReduceLROnPlateau) else ()
                scheduler.step(*args)

    def twin(self) -> Regression:
        return copy.deepcopy(self)


def assert_went_the_right_way(optimizer: Optimizer, before: float, after: float) -> None:
    assert after > before if optimizer.param_groups[0]["maximize"] else after < before


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def plain(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Without the names of parameters, which are optional."""
    groups = [{k: v for k, v in group.items() if k != "param_names"} for group in state_dict["param_groups"]]
    return {**state_dict, "param_groups": groups}


# The update --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lay_out", [Tensor.clone, lambda x: torch.stack([x, x], dim=-1)[..., 0]], ids=["dense", "gaps"]
)
def test_loss_moves_in_the_right_direction(make: Make, lay_out: Callable[[Tensor], Tensor]) -> None:
    problem = Regression(lay_out)
    optimizer = make(problem.params)
    before = problem.loss().item()
    problem.train(optimizer, 20)

    assert_went_the_right_way(optimizer, before, problem.loss().item())


def test_loss_moves_in_the_right_direction_with_schedulers(make_with_lr: Make) -> None:
    problem = Regression()
    optimizer = make_with_lr(problem.params)
    before = problem.loss().item()
    problem.train(optimizer, 20, (StepLR(optimizer, gamma=0.9, step_size=10), ReduceLROnPlateau(optimizer)))

    assert_went_the_right_way(optimizer, before, problem.loss().item())
    assert optimizer.param_groups[0]["lr"] < 1e-2


def test_schedulers_work_with_groups_of_different_lr(make_with_lr: Make) -> None:
    problem = Regression()
    optimizer = make_with_lr([{"params": [problem.weight]}, {"params": [problem.bias], "lr": 0.02}])
    before = problem.loss().item()
    problem.train(optimizer, 20, (StepLR(optimizer, gamma=0.9, step_size=10),))

    assert_went_the_right_way(optimizer, before, problem.loss().item())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.81e-2, 1.62e-2])


@pytest.mark.parametrize("lr", [torch.tensor(1e-3), torch.tensor([1e-3])], ids=["0-dim", "1-dim"])
def test_tensor_lr_is_a_float_lr(make_with_lr: Make, lr: Tensor) -> None:
    one = Regression()
    other = one.twin()
    one.train(make_with_lr(one.params, lr=lr.item()), 5)
    optimizer = make_with_lr(other.params, lr=lr)
    other.train(optimizer, 5)

    assert_same(one.params, other.params)
    assert optimizer.param_groups[0]["lr"] is lr


def test_tensor_lr_is_scheduled_in_place_or_replaced(make_with_lr: Make) -> None:
    one = Regression()
    other = one.twin()
    for problem, lr in ((one, 0.125), (other, torch.tensor(0.125))):
        optimizer = make_with_lr(problem.params, lr=lr)
        problem.train(optimizer, 6, (StepLR(optimizer, gamma=0.5, step_size=2),))
        assert float(optimizer.param_groups[0]["lr"]) == 0.125 / 8

    assert_same(one.params, other.params)


def test_groups_have_their_own_weight_decay(make: Make) -> None:
    problem = Regression()
    optimizer = make([{"params": [problem.weight]}, {"params": [problem.bias], "weight_decay": 0.0}])
    before = problem.loss().item()
    problem.train(optimizer, 20)

    assert_went_the_right_way(optimizer, before, problem.loss().item())


def test_groups_have_their_own_lr(make_with_lr: Make) -> None:
    problem = Regression()
    irrelevant = nn.Parameter(torch.randn(2))
    irrelevant.grad = torch.rand(2)
    unmoved = irrelevant.detach().clone()
    optimizer = make_with_lr([{"params": problem.params, "lr": 1e-3}, {"params": [irrelevant]}], lr=1e-28)
    before = problem.loss().item()
    problem.train(optimizer, 20)

    assert_went_the_right_way(optimizer, before, problem.loss().item())
    assert_same(irrelevant.detach(), unmoved)


def test_foreach_is_the_for_loop(make: Make) -> None:
    """With a layer frozen for two steps, all gradients missing in one, and a scalar besides."""

    def run(foreach: bool) -> tuple[list[Tensor], dict[str, Any]]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid()).double()
        scalar = nn.Parameter(torch.rand((), dtype=torch.float64))
        params = [*model.parameters(), scalar]
        groups = [{"params": params, "foreach": foreach}]
        optimizer = make(groups)
        for step in range(7):
            optimizer.zero_grad()
            model[2].requires_grad_(step not in (3, 4))
            if step != 2:
                (model(torch.rand(3, 2, dtype=torch.float64)).sum() + scalar.square()).backward()
            optimizer.step()
        return [param.detach() for param in params], optimizer.state_dict()["state"]

    assert_same(run(True), run(False))


# No gradients ------------------------------------------------------------------------------------------------------


def test_step_is_a_noop_without_gradients(make: Make) -> None:
    params = [torch.randn(2, 3) for _ in range(2)]
    before = [param.clone() for param in params]
    loss = make(params).step(lambda: torch.tensor([1.0]))

    assert_same(params, before)
    assert loss == 1.0


def test_step_is_a_noop_for_zero_gradients(make: Make) -> None:
    param = nn.Parameter(torch.randn(5, 1))
    before = param.detach().clone()
    param.grad = torch.zeros(5, 1)
    make([param], weight_decay=0.0).step(lambda: torch.tensor([1.0]))

    assert_same(param.detach(), before)


# State dicts -------------------------------------------------------------------------------------------------------


def named(params: list[nn.Parameter], with_names: bool) -> list[Any]:
    return [(f"name{number}", param) for number, param in enumerate(params)] if with_names else params


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
        group.pop("foreach", None), group.pop("seed")
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


# Copies ------------------------------------------------------------------------------------------------------------


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


# Hooks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls() -> Iterator[list[str]]:
    """A list to which global hooks write too, for the time of a test."""
    calls: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
    ]
    yield calls
    for handle in handles:
        handle.remove()


def test_step_hooks_are_called_in_order_until_they_are_removed(make: Make, calls: list[str]) -> None:
    optimizer = make([torch.ones(2)])
    before = optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    after = optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.step()
    assert calls == ["global pre", "pre", "post", "global post"]

    before.remove()
    after.remove()
    optimizer.step()
    assert calls[4:] == ["global pre", "global post"]


def test_step_pre_hook_may_replace_the_closure(make: Make) -> None:
    optimizer = make([torch.ones(2)])
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: 7), {}))

    assert optimizer.step(lambda: 1) == 7


def test_state_dict_hooks_are_called_around_it(make: Make) -> None:
    optimizer = make([torch.ones(2)])
    optimizer.register_state_dict_pre_hook(lambda opt: opt.state.update(test=1))
    assert optimizer.state_dict()["state"]["test"] == 1

    def take_out(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**state_dict, "test": state_dict["state"].pop("test")}

    optimizer.register_state_dict_post_hook(take_out)
    assert optimizer.state_dict()["test"] == 1
    assert "test" not in optimizer.state_dict()["state"]


def test_state_that_a_hook_has_put_in_is_saved_loaded_and_copied(make: Make) -> None:
    problem = Regression()
    optimizer = make(problem.params)
    optimizer.register_state_dict_pre_hook(lambda opt: opt.state.update(test=1))
    problem.train(optimizer, 1)
    other = make(problem.params)
    other.load_state_dict(optimizer.state_dict())
    problem.train(other, 1)

    assert other.state["test"] == 1
    assert copy.deepcopy(other).state["test"] == 1


def test_state_dict_hooks_are_not_called_by_loading(make: Make) -> None:
    optimizer = make([torch.ones(2)])
    saved = optimizer.state_dict()
    calls = []
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("pre"))
    optimizer.register_state_dict_post_hook(lambda *_: calls.append("post"))
    optimizer.load_state_dict(saved)

    assert not calls


def set_lr(value: float, replace: bool) -> Callable[[Optimizer, dict[str, Any]], dict[str, Any] | None]:
    def hook(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
        state_dict = copy.deepcopy(state_dict) if replace else state_dict
        state_dict["param_groups"][0]["lr"] = value
        return state_dict if replace else None

    return hook


def test_load_state_dict_pre_hooks_change_what_is_loaded_in_order(make: Make) -> None:
    optimizer = make([torch.ones(2)])
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(set_lr(0.002, replace=False))
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.002

    optimizer.register_load_state_dict_pre_hook(set_lr(0.003, replace=True), prepend=True)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.002

    optimizer.register_load_state_dict_pre_hook(set_lr(0.004, replace=True))
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.004


def test_load_state_dict_post_hooks_see_what_was_loaded(make: Make) -> None:
    problem = Regression()
    problem.weight.data = problem.weight.data.bfloat16()
    problem.weight.grad = torch.ones_like(problem.weight)
    optimizer = make(problem.params[:1])
    optimizer.step()
    seen = []
    optimizer.register_load_state_dict_pre_hook(set_lr(0.003, replace=True))
    optimizer.register_load_state_dict_post_hook(
        lambda opt: seen.append((opt.param_groups[0]["lr"], opt.state[problem.weight]["row_var"].dtype)), prepend=True
    )
    optimizer.load_state_dict(optimizer.state_dict())

    assert seen == [(0.003, torch.float32)]


# Profiling ---------------------------------------------------------------------------------------------------------


def test_step_is_named_in_profiles(make: Make) -> None:
    optimizer = make([nn.Parameter(torch.ones(2, 2))])
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()

    assert any(event.name == f"Optimizer.step#{type(optimizer).__name__}.step" for event in profile.function_events)
