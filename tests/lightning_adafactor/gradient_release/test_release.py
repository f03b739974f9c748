"""Released gradients give the numbers of the ordinary step, to the bit, and no more than a block of them exists."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_adafactor import Adafactor, TransformersAdafactor, release_gradients
from lightning_adafactor.gradient_release import release as release_file
from tests.lightning_adafactor.compiled.available import needs_compiled
from tests.lightning_adafactor.gradient_release import models
from tests.lightning_adafactor.gradient_release.models import Shape, assert_same_bits

FINE_TUNING: dict[str, Any] = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}
OPTIMIZERS: dict[str, models.Make] = {
    "torch": lambda groups: Adafactor(groups, lr=1e-2, compiled=False),
    "fine-tuning": lambda groups: Adafactor(groups, **FINE_TUNING, beta1=0.9, compiled=False),
    "transformers": lambda groups: TransformersAdafactor(
        groups, lr=1e-2, relative_step=False, weight_decay=0.01, stochastic_rounding=True, compiled=False
    ),
}

shapes = st.builds(
    Shape,
    depth=st.integers(1, 4),
    tied=st.booleans(),
    shared_layers=st.booleans(),
    checkpointing=st.sampled_from([None, False, True]),
    frozen=st.booleans(),
    experts=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)


@settings(max_examples=12, deadline=None)
@given(shape=shapes, name=st.sampled_from(sorted(OPTIMIZERS)), by=st.sampled_from(["block", "parameter"]))
def test_the_same_bits_as_without_release(shape: Shape, name: str, by: str) -> None:
    without = models.outcome(shape, OPTIMIZERS[name], release=False)
    assert_same_bits(models.outcome(shape, OPTIMIZERS[name], release=True, by=by), without)


@needs_compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_in_compiled_loops(dtype: torch.dtype) -> None:
    shape = Shape(tied=True, experts=True, checkpointing=True, dtype=dtype)

    def make(groups: Any) -> Adafactor:
        return Adafactor(groups, **FINE_TUNING, compiled=True)

    assert_same_bits(models.outcome(shape, make, release=True), models.outcome(shape, make, release=False))


def test_the_same_bits_with_relative_steps_that_begin_at_a_learning_rate_of_zero() -> None:
    """``torch.distributed.checkpoint`` creates state with lr = 0 and zero gradients; a part is not taken for that."""

    def make(groups: Any) -> Adafactor:
        made = TransformersAdafactor(groups, weight_decay=0.1, compiled=False)
        for group in made.param_groups:
            group["lr"] = 0.0
        return made

    shape = Shape(experts=True)
    assert_same_bits(models.outcome(shape, make, release=True), models.outcome(shape, make, release=False))


def test_a_part_whose_gradients_are_zero_decays_as_in_a_whole_step() -> None:
    class Model(nn.Module):
        """The second layer is stepped first, alone, with a gradient of zero."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)

        def forward(self, inputs: Tensor) -> Tensor:
            hidden: Tensor = self.first(inputs)
            return hidden + 0.0 * self.second(hidden)

    after = []
    for release in (True, False):
        model = Model()
        before = model.second.weight.detach().clone()
        optimizer = TransformersAdafactor(model.parameters(), weight_decay=0.1, compiled=False)
        optimizer.param_groups[0]["lr"] = 0.0
        with release_gradients(optimizer, model, by="parameter") if release else contextlib.nullcontext():
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
        assert not torch.equal(model.second.weight, before)
        after.append(dict(model.state_dict()))
    assert_same_bits(*after)


class Stream:
    """A CUDA stream, and what happens on it."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def wait_stream(self, other: Any) -> None:
        self.events.append(("waits for", other))

    def synchronize(self) -> None:
        self.events.append("synchronized")


@pytest.mark.parametrize("same", [True, False], ids=["the same stream", "another stream"])
def test_a_step_waits_for_the_stream_that_wrote_a_gradient(same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    current, used = Stream(), []
    gradient = SimpleNamespace(device="cuda:0", record_stream=used.append)
    monkeypatch.setattr(release_file, "_local_gradient", lambda param: gradient)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    writer = current if same else Stream()

    release_file._wait_for_gradient(nn.Parameter(torch.ones(1)), writer)  # type: ignore[arg-type]

    assert current.events == ([] if same else [("waits for", writer)])
    assert used == ([] if same else [current])


class Live:
    """The bytes of the gradients that are alive, recorded as each one arrives."""

    def __init__(self, model: nn.Module) -> None:
        self.now = self.peak = 0
        for param in model.parameters():
            param.register_post_accumulate_grad_hook(self.arrives)

    def arrives(self, param: Tensor) -> None:
        assert param.grad is not None
        size = param.grad.untyped_storage().nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(param.grad.untyped_storage(), self.leaves, size)

    def leaves(self, size: int) -> None:
        self.now -= size


def largest_block(model: nn.Module) -> int:
    layer = sum(param.nbytes for param in model.layers[0].parameters())
    return max(layer, model.embedding.weight.nbytes)


@pytest.mark.parametrize("checkpointing", [None, False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_no_more_gradients_exist_than_those_of_the_largest_block(tied: bool, checkpointing: bool | None) -> None:
    model = models.model(Shape(depth=5, tied=tied, checkpointing=checkpointing))
    live = Live(model)
    optimizer = Adafactor(model.parameters(), compiled=False)
    with release_gradients(optimizer, model) as released:
        models.train(model, optimizer)
    assert live.peak == largest_block(model)
    assert released.peak.bytes == largest_block(model)
    assert live.now == 0


def test_by_parameter_no_more_exist_than_the_largest_one() -> None:
    model = models.model(Shape(experts=True))
    live = Live(model)
    optimizer = Adafactor(model.parameters(), compiled=False)
    with release_gradients(optimizer, model, by="parameter"):
        models.train(model, optimizer)
    assert live.peak == max(param.nbytes for param in model.parameters())


def test_layers_that_are_not_used_as_a_whole_add_one_parameter_at_most() -> None:
    model = models.model(Shape(depth=6, experts=True))
    live = Live(model)
    optimizer = Adafactor(model.parameters(), compiled=False)
    with release_gradients(optimizer, model):
        models.train(model, optimizer)
    assert live.peak <= largest_block(model) + max(param.nbytes for param in model.parameters())


def test_without_release_all_exist() -> None:
    model = models.model(Shape())
    live = Live(model)
    models.train(model, Adafactor(model.parameters(), compiled=False), steps=1)
    assert live.peak == sum(param.nbytes for param in model.parameters())


class Repeated(nn.Module):
    """Uses its layers several times, each time in a reentrant checkpoint; two share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in (self.first, self.second, self.first):
            hidden = checkpoint(layer, hidden, use_reentrant=True).tanh()
        return self.first(hidden)


def test_a_weight_of_several_reentrant_checkpoints_waits_for_its_last_use() -> None:
    weights = []
    for release in (False, True):
        torch.manual_seed(0)
        model = Repeated()
        optimizer = Adafactor(model.parameters(), compiled=False)
        released = release_gradients(optimizer, model) if release else None
        gradients_left = []
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 4, requires_grad=True)).sum().backward()
            gradients_left.append(sum(param.grad is not None for param in model.parameters()))
            optimizer.step()
        weights.append(dict(model.state_dict()))
        assert gradients_left == ([0, 0, 0] if released else [3, 3, 3])
    assert_same_bits(weights[1], weights[0])


def test_two_forward_passes_before_one_backward_pass() -> None:
    weights = []
    for release in (False, True):
        model = models.model(Shape(checkpointing=True))
        optimizer = Adafactor(model.parameters(), compiled=False)
        if release:
            release_gradients(optimizer, model)
        one, two = models.batches(2)
        for _ in range(2):
            optimizer.zero_grad()
            (models.loss_of(model, one, True) + models.loss_of(model, two, True)).backward()
            optimizer.step()
        weights.append(dict(model.state_dict()))
    assert_same_bits(weights[1], weights[0])


@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("training", "checkpointing"),
    [pytest.param(False, True, id="validation"), pytest.param(True, False, id="training mode")],
)
def test_a_call_without_gradients_between_two_steps_does_not_delay_the_release(
    training: bool, checkpointing: bool, without_gradients: Callable[[], Any]
) -> None:
    model = models.model(Shape(checkpointing=checkpointing))
    optimizer = Adafactor(model.parameters(), compiled=False)
    release_gradients(optimizer, model)
    with without_gradients():
        models.loss_of(model.train(training), next(models.batches(1)), True)
    models.loss_of(model.train(), next(models.batches(1)), True).backward()
    assert all(param.grad is None for param in model.parameters())


def test_each_block_is_one_call_from_the_last_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.model(Shape(depth=3))
    optimizer = Adafactor(model.parameters(), compiled=False)
    names = {param: name for name, param in model.named_parameters()}
    calls: list[set[str]] = []
    step = optimizer.step_parameters
    monkeypatch.setattr(
        optimizer, "step_parameters", lambda params: (calls.append({names[param] for param in params}), step(params))
    )
    release_gradients(optimizer, model)
    models.train(model, optimizer, steps=1)
    layers = [{name for name in names.values() if name.startswith(f"layers.{i}.")} for i in (2, 1, 0)]
    assert [call for call in calls if len(call) > 2] == layers
    assert calls[-1] == {"embedding.weight"}


def test_removal_in_the_middle_of_a_training() -> None:
    without = models.outcome(Shape(), OPTIMIZERS["torch"], release=False)
    model = models.model(Shape())
    optimizer = OPTIMIZERS["torch"](models.groups(model))
    released = release_gradients(optimizer, model)
    backward_passes = []

    def after_backward() -> None:
        backward_passes.append(sum(param.grad is not None for param in model.parameters()))
        if len(backward_passes) == 2:
            released.remove()

    models.train(model, optimizer, after_backward=after_backward)
    assert_same_bits(dict(model.state_dict()), dict(without["parameters"]))
    count = len(list(model.parameters()))
    assert backward_passes == [0, 0, count, count]
    assert not hasattr(optimizer, "_step_supports_amp_scaling")
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_guarded_loss_that_is_not_finite_changes_nothing() -> None:
    model = models.model(Shape(experts=True))
    optimizer = Adafactor(model.parameters(), compiled=False)
    released = release_gradients(optimizer, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = models.loss_of(model, next(models.batches(1)), False) * float("inf")
    released.guard(loss)
    loss.backward()
    optimizer.step()
    assert_same_bits(dict(model.state_dict()), before)
    assert not hasattr(optimizer, "found_inf")


def test_after_a_guarded_backward_pass_that_was_given_up_the_optimizer_steps_again() -> None:
    model = models.model(Shape())
    optimizer = Adafactor(model.parameters(), compiled=False)
    with release_gradients(optimizer, model) as released:
        released.guard(torch.tensor(float("nan")))
    assert not hasattr(optimizer, "found_inf")

    before = {name: value.clone() for name, value in model.state_dict().items()}
    models.loss_of(model, next(models.batches(1)), False).backward()
    optimizer.step()
    assert not all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_after_an_exception_in_the_backward_pass_a_reset_allows_another_one() -> None:
    model = models.model(Shape())
    optimizer = Adafactor(model.parameters(), compiled=False)
    released = release_gradients(optimizer, model)
    batch = next(models.batches(1))

    def fail(gradient: Tensor) -> None:
        raise MemoryError

    handle = next(model.parameters()).register_hook(fail)  # of the last gradient, when most layers have been stepped
    with pytest.raises(MemoryError):
        models.loss_of(model, batch, False).backward()
    handle.remove()
    with pytest.raises(RuntimeError, match=r"after an exception in a backward pass, call reset\(\)"):
        models.loss_of(model, batch, False).backward()

    released.reset()
    optimizer.zero_grad()
    models.loss_of(model, batch, False).backward()
    optimizer.step()
    assert all(param.grad is None for param in model.parameters())


def test_a_copy_of_the_model_has_no_hooks_that_step_the_original() -> None:
    import copy
    import pickle

    model = models.model(Shape())
    optimizer = Adafactor(model.parameters(), compiled=False)
    release_gradients(optimizer, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        models.loss_of(twin, next(models.batches(1)), True).backward()
        assert all(param.grad is not None for param in twin.parameters())
    assert_same_bits(dict(model.state_dict()), before)


def test_parameters_outside_of_the_model_are_released_too() -> None:
    model, other = models.model(Shape()), nn.Linear(models.VOCABULARY, 1)
    optimizer = Adafactor([*model.parameters(), *other.parameters()], compiled=False)
    release_gradients(optimizer, model)
    other(model(next(models.batches(1)))).sum().backward()
    assert all(param.grad is None for param in other.parameters())
    assert all(float(optimizer.state[param]["step"]) == 1 for param in other.parameters())


# What is refused ---------------------------------------------------------------------------------------------------


def test_a_weight_that_is_needed_after_its_step_raises_an_error() -> None:
    layer = nn.Linear(3, 3, bias=False)
    optimizer = Adafactor(layer.parameters(), compiled=False)
    release_gradients(optimizer, layer)
    hidden = torch.ones(1, 3, requires_grad=True) @ layer.weight.detach()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        layer(hidden).sum().backward()
