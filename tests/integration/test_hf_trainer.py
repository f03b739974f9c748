"""Hugging Face's ``Trainer`` with our optimizers, compared with its own and with torch's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.optimization import AdafactorSchedule

from lightning_adafactor import Adafactor, TransformersAdafactor, compute_optimizer_size

NewModel = Callable[[], transformers.PreTrainedModel]
Train = Callable[..., Trainer]
STEPS = 12
CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}


@pytest.fixture
def train(tmp_path: Path, new_model: NewModel, texts: Dataset[Any]) -> Train:
    """Trains a fresh model for one epoch of 12 steps, with gradient clipping and a decreasing learning rate."""

    def run(
        optimizer: tuple[type, dict[str, Any]] | None = None, resume: Path | None = None, **options: Any
    ) -> Trainer:
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1,
            "learning_rate": 1e-2,
            "weight_decay": 0.0,
            "max_grad_norm": 0.5,
            "lr_scheduler_type": "linear",
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 0,
        }
        args = TrainingArguments(**{**defaults, **options})
        trainer = Trainer(model=new_model(), args=args, train_dataset=texts, optimizer_cls_and_kwargs=optimizer)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        return trainer

    return run


def losses(trainer: Trainer) -> list[float]:
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def assert_same_run(ours: Trainer, theirs: Trainer, rtol: float = 1e-4, atol: float = 2e-5) -> None:
    assert len(losses(ours)) == STEPS
    assert sum(losses(ours)[:6]) > sum(losses(ours)[6:]), "the loss did not decrease"
    assert losses(ours) == pytest.approx(losses(theirs), rel=rtol)
    torch.testing.assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=rtol, atol=atol)


def optimizer_of(trainer: Trainer) -> torch.optim.Optimizer:
    """The Trainer's optimizer without accelerate's wrapper."""
    return getattr(trainer.optimizer, "optimizer", trainer.optimizer)


def test_readme_example(tmp_path: Path, new_model: NewModel, texts: Dataset[Any]) -> None:
    model, train_dataset = new_model(), texts
    args = TrainingArguments(tmp_path, num_train_epochs=1, report_to="none", use_cpu=True, save_strategy="no")

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        optimizer_cls_and_kwargs=(Adafactor, {"lr": 3e-4, "scale_parameter": False, "relative_step": False}),
    )
    trainer.train()
    megabytes, elements = compute_optimizer_size(trainer.optimizer.state.values())

    # A matrix has one number per row and column, a vector one per element, and each tensor one step.
    factors = sum(
        p.shape[-2] + p.shape[-1] if p.dim() > 1 else p.numel() for p in model.parameters() if p.requires_grad
    )
    assert elements == factors + len(list(model.parameters()))
    assert megabytes == 4 * elements / 2**20


def test_transformers_adafactor_equals_the_trainers_own(train: Train) -> None:
    ours = train((TransformersAdafactor, CONSTANT_LR))
    theirs = train(optim="adafactor")

    assert type(optimizer_of(ours)) is TransformersAdafactor
    assert type(optimizer_of(theirs)) is transformers.Adafactor
    assert_same_run(ours, theirs)


def test_equal_runs_with_an_optimizer_and_an_adafactor_schedule_passed_to_the_trainer(
    new_model: NewModel, texts: Dataset[Any], tmp_path: Path
) -> None:
    def run(make: type) -> Trainer:
        model = new_model()
        optimizer = make(model.parameters(), scale_parameter=True, relative_step=True, warmup_init=False)
        args = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=4,
            num_train_epochs=1,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
        )
        optimizers = (optimizer, AdafactorSchedule(optimizer))
        trainer = Trainer(model=model, args=args, train_dataset=texts, optimizers=optimizers)
        trainer.train()
        return trainer

    ours, theirs = run(TransformersAdafactor), run(transformers.Adafactor)

    assert_same_run(ours, theirs)
    rates = [[row["learning_rate"] for row in r.state.log_history if "loss" in row] for r in (ours, theirs)]
    assert rates[0] == pytest.approx(rates[1], rel=1e-4)


def test_adafactor_equals_torchs_in_the_trainer(train: Train) -> None:
    arguments = {"lr": 1e-2, "weight_decay": 0.1}

    assert_same_run(train((Adafactor, arguments)), train((torch.optim.Adafactor, arguments)))


@pytest.mark.parametrize(
    "options",
    [{"gradient_accumulation_steps": 2, "num_train_epochs": 2, "weight_decay": 0.1}, {"bf16": True}],
    ids=lambda options: next(iter(options)),
)
def test_equal_runs_with(options: dict[str, Any], train: Train) -> None:
    ours = train((TransformersAdafactor, CONSTANT_LR), **options)
    theirs = train(optim="adafactor", **options)

    assert_same_run(ours, theirs)


@pytest.mark.parametrize("optimizer", [TransformersAdafactor, Adafactor])
def test_a_run_resumed_from_a_trainer_checkpoint_equals_an_uninterrupted_one(
    optimizer: type, train: Train, tmp_path: Path
) -> None:
    whole = train((optimizer, CONSTANT_LR), save_strategy="steps", save_steps=5)
    resumed = train((optimizer, CONSTANT_LR), resume=tmp_path / "out" / "checkpoint-5")

    assert resumed.state.global_step == STEPS
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_of_the_trainers_own_adafactor_is_resumed(train: Train, tmp_path: Path) -> None:
    theirs = train(optim="adafactor", save_strategy="steps", save_steps=5)
    ours = train((TransformersAdafactor, CONSTANT_LR), resume=tmp_path / "out" / "checkpoint-5")

    assert type(optimizer_of(ours)) is TransformersAdafactor
    torch.testing.assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=1e-4, atol=2e-5)
