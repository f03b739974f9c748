"""Tests that need a GPU: numbers of the compiled kernels, no synchronization with the device, graphs, memory.

Run alone with ``pytest -m gpu``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard

from lightning_adafactor import Adafactor, TransformersAdafactor
from lightning_adafactor.sharded.fused import FusedStages, Tables
from lightning_adafactor.work import Work
from tests.lightning_adafactor import specs
from tests.lightning_adafactor.fused import harness
from tests.lightning_adafactor.fused.harness import assert_same_bits, bits, random_gradients, random_params, train
from tests.lightning_adafactor.reference import ReferenceOptimizer
from tests.lightning_adafactor.sharded import processes, shardings
from tests.lightning_adafactor.sharded.alone import shards_of

pytestmark = pytest.mark.gpu

SHAPES = [(512, 256), (300, 131), (4, 96, 80), (8, 4, 3, 3), (1000,), (7,), (), (2100, 64)]
CONSTANT_LR: dict[str, Any] = {"relative_step": False, "scale_parameter": False, "lr": 1e-2}


@pytest.fixture
def no_waiting() -> Iterator[Any]:
    """A switch that makes every wait for the device an error."""

    def switch(on: bool) -> None:
        torch.cuda.set_sync_debug_mode("error" if on else "default")

    yield switch
    switch(False)


def gradients_for(params: list[Tensor], step: int) -> list[Tensor]:
    return [random_gradients(step, number, param) for number, param in enumerate(params)]


@pytest.mark.parametrize("dialect", harness.CLASSES)
@pytest.mark.parametrize("beta1", [None, 0.9])
def test_float32_is_the_rule_in_float64_for_every_layout(dialect: str, beta1: float | None) -> None:
    names, options = list(specs.CASES), {"beta1": beta1, "weight_decay": 0.1}
    ours = harness.CLASSES[dialect](harness.cases(names, torch.float32, "cuda"), fused=True, **options)
    theirs = ReferenceOptimizer(harness.cases(names, torch.float32, "cuda"), dialect, options)
    harness.assert_steps_agree(ours, theirs, names, range(1, 8), 3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_kernels_are_chosen_by_default_and_agree_with_the_plain_step(dtype: torch.dtype) -> None:
    ours = Adafactor(random_params(SHAPES, dtype, "cuda"), weight_decay=0.1)
    theirs = Adafactor(random_params(SHAPES, dtype, "cpu"), weight_decay=0.1, fused=False, compiled=False)
    for optimizer in (ours, theirs):
        train(optimizer, random_gradients, [1, 2, 3])
    assert ours._kept_steps is not None
    assert ours._kept_steps.fused is not None
    for param, expected in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        # where a last bit of float32 differs, a low-precision parameter may be rounded to its neighbor
        tolerance = 2e-6 if dtype == torch.float32 else 1e-4
        assert harness.relative_error(param, expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_runs_give_the_same_bits(dtype: torch.dtype) -> None:
    runs = []
    for _ in range(2):
        optimizer = Adafactor(random_params(SHAPES, dtype, "cuda"), fused=True, beta1=0.9, seed=5)
        train(optimizer, random_gradients, [1, 2, 3])
        runs.append(bits(optimizer))
    assert_same_bits(*runs)


@pytest.mark.parametrize("of", [Adafactor, TransformersAdafactor])
def test_a_step_never_waits_for_the_device(of: Any, no_waiting: Any) -> None:
    params = random_params(SHAPES, torch.float32, "cuda")
    optimizer = of(params, fused=True)
    gradients = [gradients_for(params, step) for step in range(4)]
    for step, grads in enumerate(gradients):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        no_waiting(step > 0)  # the first step compiles
        optimizer.step()
    no_waiting(False)
    assert all(state["step"] == 4 for state in optimizer.state.values())


def test_a_schedule_never_waits_for_the_device(no_waiting: Any) -> None:
    params = random_params(SHAPES, torch.float32, "cuda")
    optimizer = Adafactor(params, fused=True, relative_step=False)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    train(optimizer, random_gradients, [1])
    no_waiting(True)
    for _ in range(3):
        schedule.step()
        optimizer.step()
    no_waiting(False)
    assert all(state["step"] == 4 for state in optimizer.state.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_is_replayed_with_new_gradients_and_a_new_lr(dtype: torch.dtype) -> None:
    lr = torch.tensor(1e-2, device="cuda")
    options = {**CONSTANT_LR, "lr": lr}
    params, expected = random_params(SHAPES, dtype, "cuda"), random_params(SHAPES, dtype, "cuda")
    ours = Adafactor(params, fused=True, capturable=True, **options)
    eager = Adafactor(expected, fused=True, **{**CONSTANT_LR, "lr": lr.clone()})
    for param in params:
        param.grad = torch.zeros_like(param)

    def load(step: int) -> None:
        for param, grad in zip(params, gradients_for(params, step), strict=True):
            param.grad.copy_(grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for step in (1, 2):
            load(step)
            ours.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()

    for step, rate in ((3, 1e-2), (4, 3e-3), (5, 1e-3)):
        load(step)
        lr.fill_(rate)
        graph.replay()
    load(6)
    ours.step()  # without the graph, then with it again: neither disturbs the other
    load(7)
    graph.replay()

    for step, rate in ((1, 1e-2), (2, 1e-2), (3, 1e-2), (4, 3e-3), (5, 1e-3), (6, 1e-3), (7, 1e-3)):
        eager.param_groups[0]["lr"].fill_(rate)
        train(eager, random_gradients, [step])
    assert_same_bits(bits(ours), bits(eager))


def test_capturing_without_capturable_is_refused_with_the_reason() -> None:
    optimizer = Adafactor(random_params([(8, 8)], torch.float32, "cuda"), fused=True)
    train(optimizer, random_gradients, [1])
    torch.cuda.synchronize()
    with pytest.raises(RuntimeError, match="capturable=True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


def test_a_gradient_scaler_that_the_kernels_unscale_for_never_waits(no_waiting: Any) -> None:
    params = random_params([(64, 32), (10,)], torch.float32, "cuda")
    optimizer = Adafactor(params, fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    for step, bad in enumerate((False, True, False)):
        optimizer.zero_grad()
        loss = sum((param * (torch.inf if bad else 1.0)).square().sum() for param in params)
        scaler.scale(loss).backward()
        before = [param.detach().clone() for param in params]
        no_waiting(step > 0)
        scaler.step(optimizer)
        no_waiting(False)
        scaler.update()
        assert all(torch.equal(param, old) == bad for param, old in zip(params, before, strict=True))
    assert all(state["step"] == 2 for state in optimizer.state.values())


def test_skipping_a_gradient_that_is_not_finite_never_waits(no_waiting: Any) -> None:
    params = random_params(SHAPES, torch.float32, "cuda")
    optimizer = Adafactor(params, fused=True, on_nonfinite="skip")
    gradients = [gradients_for(params, step) for step in range(3)]
    gradients[1][2].view(-1)[5] = torch.nan
    for step, grads in enumerate(gradients):
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        before = [param.detach().clone() for param in params]
        no_waiting(step > 0)
        optimizer.step()
        no_waiting(False)
        assert all(torch.equal(param, old) == (step == 1) for param, old in zip(params, before, strict=True))
    assert optimizer.skipped_steps == 1


def test_raising_for_a_gradient_that_is_not_finite_comes_in_a_later_step() -> None:
    params = random_params([(8, 8)], torch.float32, "cuda")
    optimizer = Adafactor(params, fused=True, on_nonfinite="raise")
    params[0].grad = torch.full_like(params[0], torch.inf)
    before = params[0].detach().clone()
    optimizer.step()
    torch.cuda.synchronize()
    assert torch.equal(params[0], before)
    with pytest.raises(RuntimeError, match="not finite in step 1"):
        optimizer.step()


@pytest.mark.parametrize("fused_first", [True, False])
def test_state_goes_from_one_path_to_the_other(fused_first: bool) -> None:
    first = Adafactor(random_params(SHAPES, torch.float32, "cuda"), fused=fused_first, beta1=0.9)
    second = Adafactor(random_params(SHAPES, torch.float32, "cuda"), fused=not fused_first, beta1=0.9)
    whole = Adafactor(random_params(SHAPES, torch.float32, "cuda"), fused=False, compiled=False, beta1=0.9)
    train(first, random_gradients, [1, 2])
    for param, trained in zip(second.param_groups[0]["params"], first.param_groups[0]["params"], strict=True):
        param.data.copy_(trained.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.param_groups[0]["fused"] = not fused_first
    train(second, random_gradients, [3])
    train(whole, random_gradients, [1, 2, 3])
    for param, expected in zip(second.param_groups[0]["params"], whole.param_groups[0]["params"], strict=True):
        assert harness.relative_error(param, expected) < 3e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_beyond_state_is_at_most_two_percent_of_the_parameters(dtype: torch.dtype) -> None:
    params = random_params([(4096, 2048)] * 4, dtype, "cuda")
    optimizer = Adafactor(params, fused=True)
    for param in params:
        param.grad = torch.ones_like(param)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    optimizer.step()
    torch.cuda.synchronize()
    state = sum(value.numel() * 4 for entry in optimizer.state.values() for value in entry.values())
    size = sum(param.numel() * param.itemsize for param in params)
    assert torch.cuda.max_memory_allocated() - before - state <= 0.02 * size


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2**15, 2**16 + 8), (2**31 + 2**10,)], ids=["matrix", "vector"])
def test_more_than_2_to_the_31_elements(shape: tuple[int, ...]) -> None:
    elements = torch.Size(shape).numel()
    needed = elements * (2 + 2 + 4 * (len(shape) == 1)) * 1.1
    free, _ = torch.cuda.mem_get_info()
    if free < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of GPU memory, and {free / 2**30:.0f} GiB are free")
    param = torch.full(shape, 1.0, dtype=torch.bfloat16, device="cuda").requires_grad_()
    param.grad = torch.ones_like(param)
    optimizer = Adafactor([param], fused=True, stochastic_rounding=False, lr=0.25, **{"relative_step": False})
    optimizer.step()
    # G is 1 everywhere, so R = C = 1 (or V = 1), U = 1 and p = 1 - 0.25·RMS(p)
    for piece in param.detach().view(-1).split(2**28):
        assert (piece == 0.75).all()


def test_parameters_on_several_devices_step_together() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two CUDA devices, and torch finds {torch.cuda.device_count()}")
    one, two = (random_params([(64, 32), (9,)], torch.float32, f"cuda:{number}") for number in (0, 1))
    optimizer = Adafactor([*one, *two], fused=True, lr=torch.tensor(0.1, device="cuda:0"))
    train(optimizer, lambda step, number, param: random_gradients(step, number % 2, param), [1, 2])
    for param, other in zip(one, two, strict=True):
        assert torch.equal(param.cpu(), other.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_stages_of_shards_never_wait_and_give_the_numbers_of_whole_parameters(
    dtype: torch.dtype, no_waiting: Any
) -> None:
    ours, theirs = (Adafactor(random_params(SHAPES, dtype, "cuda"), fused=True, weight_decay=0.1) for _ in range(2))
    tables: Tables = {}
    for step in range(1, 4):
        train(theirs, random_gradients, [step])
        params = ours.param_groups[0]["params"]
        for param, gradient in zip(params, gradients_for(params, step), strict=True):
            param.grad = gradient
        work = Work()
        ours._collect(work)
        shards, squares, updates = shards_of(work.fused)
        found_inf = torch.zeros((), device="cuda")
        no_waiting(step > 1)
        stages = FusedStages(shards, squares, updates, None, tables=tables, tilings={})
        stages.sum_squares()
        stages.sum_updates(found_inf)
        stages.apply_updates(found_inf)
        no_waiting(False)
    for param, expected in zip(params, theirs.param_groups[0]["params"], strict=True):
        assert harness.relative_error(param, expected) < (2e-6 if dtype == torch.float32 else 1e-4)


def shards_on_one_device() -> float:
    """How far shards of two processes on one device are off after three steps; gloo adds up their sums."""
    mesh = DeviceMesh.from_group(distributed.group.WORLD, "cuda")  # NCCL would refuse two processes on one device
    wholes = random_params(SHAPES[:5], torch.float32, "cuda")
    params = [shardings.shard(whole.detach().clone(), mesh, (Shard(0),)).requires_grad_() for whole in wholes]
    alone, ours = Adafactor(wholes, fused=False, compiled=False), Adafactor(params, fused=True)
    for step in (1, 2, 3):
        for whole, param, gradient in zip(wholes, params, gradients_for(wholes, step), strict=True):
            whole.grad, param.grad = gradient, shardings.shard(gradient, mesh, (Shard(0),))
        alone.step()
        ours.step()
    return max(
        shardings.distance(param, whole) / float(whole.norm()) for param, whole in zip(params, wholes, strict=True)
    )


def test_shards_of_two_processes_on_one_device_give_the_numbers_of_one(tmp_path: Any) -> None:
    for off in processes.run(shards_on_one_device, 2, tmp_path):
        assert off < 2e-6


def test_workspace_is_freed_with_the_optimizer() -> None:
    params = random_params([(2048, 1024)], torch.float32, "cuda")
    before = torch.cuda.memory_allocated()
    optimizer = Adafactor(params, fused=True)
    train(optimizer, random_gradients, [1])
    optimizer.zero_grad()
    del optimizer
    assert torch.cuda.memory_allocated() == before
