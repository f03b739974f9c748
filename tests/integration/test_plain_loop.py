"""A plain PyTorch loop with our optimizers: scaler, schedulers and closures, compared with the originals."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset
from transformers.optimization import AdafactorSchedule

from lightning_adafactor import Adafactor, TransformersAdafactor, compute_optimizer_size

NewModel = Callable[[], transformers.PreTrainedModel]
NewOptimizer = Callable[..., torch.optim.Optimizer]

CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}
PAIRS = [
    pytest.param(TransformersAdafactor, transformers.Adafactor, CONSTANT_LR, id="transformers-constant-lr"),
    pytest.param(TransformersAdafactor, transformers.Adafactor, {"warmup_init": True}, id="transformers-warmup"),
    pytest.param(TransformersAdafactor, transformers.Adafactor, {"beta1": 0.9}, id="transformers-momentum"),
    pytest.param(Adafactor, torch.optim.Adafactor, {"lr": 1e-2, "weight_decay": 0.1}, id="torch"),
]


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=1e-4, atol=2e-5)


def batches_of(texts: Dataset[Any]) -> DataLoader[Any]:
    return DataLoader(texts, batch_size=4)


def test_readme_example(new_model: NewModel, texts: Dataset[Any]) -> None:
    model, loader = new_model(), batches_of(texts)

    optimizer = Adafactor(model.parameters(), lr=3e-4, scale_parameter=False, relative_step=False)
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    megabytes, elements = compute_optimizer_size(optimizer.state.values())

    assert loss.isfinite()
    # A matrix has one number per row and column, a vector one per element, and each tensor one step.
    factors = sum(sum(p.shape) if p.dim() > 1 else p.numel() for p in model.parameters())
    assert elements == factors + len(list(model.parameters()))
    assert megabytes == 4 * elements / 2**20


@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS)
def test_equal_numbers(
    ours: NewOptimizer,
    theirs: NewOptimizer,
    arguments: dict[str, Any],
    new_model: NewModel,
    texts: Dataset[Any],
) -> None:
    def train(make: NewOptimizer) -> tuple[torch.nn.Module, list[float]]:
        model = new_model()
        optimizer = make(model.parameters(), **arguments)
        losses = []
        for batch in batches_of(texts):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return model, losses

    (one, one_losses), (other, other_losses) = train(ours), train(theirs)

    assert sum(one_losses[:6]) > sum(one_losses[6:]), "the loss did not decrease"
    assert one_losses == pytest.approx(other_losses, rel=1e-4)
    assert_same_weights(one, other)


@pytest.mark.parametrize("optimizer_class", [Adafactor, TransformersAdafactor])
def test_closure_is_called_once_with_gradients_enabled_and_its_loss_returned(
    optimizer_class: NewOptimizer, new_model: NewModel, texts: Dataset[Any]
) -> None:
    plain, closed = new_model(), new_model()
    plain_optimizer = optimizer_class(plain.parameters(), **CONSTANT_LR)
    closed_optimizer = optimizer_class(closed.parameters(), **CONSTANT_LR)
    for batch in batches_of(texts):
        expected = plain(**batch).loss
        expected.backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        calls = []

        def closure(batch: Any = batch, calls: list[int] = calls) -> torch.Tensor:
            calls.append(1)
            closed_optimizer.zero_grad()
            loss = closed(**batch).loss
            loss.backward()
            return loss

        assert closed_optimizer.step(closure) == expected
        assert calls == [1]

    torch.testing.assert_close(closed.state_dict(), plain.state_dict(), rtol=0, atol=0)


# Tracing the step would call cached functions anew and take its bookkeeping of pointers for constants.
@pytest.mark.filterwarnings("ignore:Profiler record function:UserWarning")
@pytest.mark.parametrize("optimizer_class", [Adafactor, TransformersAdafactor])
def test_torch_compile_leaves_the_step_as_it_is(
    optimizer_class: NewOptimizer, new_model: NewModel, texts: Dataset[Any]
) -> None:
    def train(wrap: Callable[..., Any]) -> torch.nn.Module:
        model = new_model()
        optimizer = optimizer_class(model.parameters(), **CONSTANT_LR)
        step = wrap(optimizer.step)
        for batch in batches_of(texts):
            model(**batch).loss.backward()
            step()
            optimizer.zero_grad()
        return model

    compiled = train(lambda step: torch.compile(step, backend="eager"))

    torch.testing.assert_close(compiled.state_dict(), train(lambda step: step).state_dict(), rtol=0, atol=0)


SCHEDULES = {
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=6),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=12),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1)),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=13, cycle_momentum=False
    ),
    "SequentialLR": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.ConstantLR(optimizer, 0.5, 4), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        milestones=[4],
    ),
    "get_scheduler": lambda optimizer: transformers.get_scheduler(
        "cosine", optimizer, num_warmup_steps=3, num_training_steps=12
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("ours", "theirs", "arguments"), [PAIRS[0], PAIRS[-1]])
def test_learning_rate_follows_the_scheduler(
    ours: NewOptimizer,
    theirs: NewOptimizer,
    arguments: dict[str, Any],
    schedule: str,
    new_model: NewModel,
    texts: Dataset[Any],
) -> None:
    def train(make: NewOptimizer) -> tuple[torch.nn.Module, list[float]]:
        model = new_model()
        optimizer = make(model.parameters(), **arguments)
        scheduler = SCHEDULES[schedule](optimizer)
        rates = []
        for batch in batches_of(texts):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
        return model, rates

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SequentialLR.*|.*epoch parameter.*")
        (one, one_rates), (other, other_rates) = train(ours), train(theirs)

    assert one_rates == other_rates
    assert len(set(one_rates)) > 2
    assert_same_weights(one, other)


def test_reduce_on_plateau_lowers_the_learning_rate(new_model: NewModel) -> None:
    optimizer = Adafactor(new_model().parameters(), lr=1e-2)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    for _ in range(3):
        plateau.step(1.0)

    assert optimizer.param_groups[0]["lr"] == 0.0025


def test_transformers_adafactor_schedule_reports_the_same_learning_rates(
    new_model: NewModel, texts: Dataset[Any]
) -> None:
    def train(make: NewOptimizer) -> tuple[torch.nn.Module, list[float]]:
        model = new_model()
        optimizer = make(model.parameters(), scale_parameter=True, relative_step=True, warmup_init=True)
        schedule = AdafactorSchedule(optimizer)
        rates = []
        for batch in batches_of(texts):
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            rates += [float(rate) for rate in schedule.get_lr()]
        return model, rates

    (one, one_rates), (other, other_rates) = train(TransformersAdafactor), train(transformers.Adafactor)

    assert len(one_rates) == 12
    assert one_rates == pytest.approx(other_rates, rel=1e-5)
    assert_same_weights(one, other)


@pytest.mark.parametrize("unscale", [True, False], ids=["unscaled and clipped", "scaled"])
@pytest.mark.parametrize(("ours", "theirs", "arguments"), PAIRS)
def test_grad_scaler_steps_and_skips_like_the_original(
    ours: NewOptimizer,
    theirs: NewOptimizer,
    arguments: dict[str, Any],
    unscale: bool,
    new_model: NewModel,
    texts: Dataset[Any],
) -> None:
    def train(make: NewOptimizer) -> tuple[torch.nn.Module, list[float]]:
        model = new_model()
        optimizer = make(model.parameters(), **arguments)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
        scales = []
        for index, batch in enumerate(batches_of(texts)):
            loss = model(**batch).loss
            scaler.scale(loss * (float("inf") if index in (0, 5) else 1.0)).backward()
            if unscale:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scales.append(scaler.get_scale())
        return model, scales

    (one, one_scales), (other, other_scales) = train(ours), train(theirs)

    assert one_scales == other_scales
    assert one_scales[0] == 512.0
    assert_same_weights(one, other)


@pytest.mark.parametrize("optimizer_class", [Adafactor, TransformersAdafactor])
def test_fp16_autocast_with_a_grad_scaler_learns(
    optimizer_class: NewOptimizer, new_model: NewModel, texts: Dataset[Any]
) -> None:
    model = new_model()
    optimizer = optimizer_class(model.parameters(), **CONSTANT_LR)
    scaler = torch.amp.GradScaler("cpu")
    losses = []
    for batch in batches_of(texts):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())

    assert sum(losses[:6]) > sum(losses[6:])


@pytest.mark.parametrize("optimizer_class", [Adafactor, TransformersAdafactor])
def test_a_step_that_the_scaler_skips_leaves_weights_and_state_unchanged(
    optimizer_class: NewOptimizer, new_model: NewModel, texts: Dataset[Any]
) -> None:
    model = new_model()
    optimizer = optimizer_class(model.parameters(), **CONSTANT_LR)
    scaler = torch.amp.GradScaler("cpu")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    batch = next(iter(batches_of(texts)))
    scaler.scale(model(**batch).loss * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()

    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert compute_optimizer_size(optimizer.state.values())[1] == 0


@pytest.mark.parametrize("optimizer_class", [Adafactor, TransformersAdafactor])
def test_a_run_resumed_from_torch_save_equals_an_uninterrupted_one(
    optimizer_class: NewOptimizer, new_model: NewModel, texts: Dataset[Any], tmp_path: Any
) -> None:
    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> None:
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    batches = list(batches_of(texts))
    whole = new_model()
    optimizer = optimizer_class(whole.parameters(), **CONSTANT_LR)
    train(whole, optimizer, batches[:6])
    torch.save({"model": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    train(whole, optimizer, batches[6:])

    resumed = new_model()
    optimizer = optimizer_class(resumed.parameters(), **CONSTANT_LR)
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    train(resumed, optimizer, batches[6:])

    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
