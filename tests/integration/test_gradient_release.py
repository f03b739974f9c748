"""Gradient release in loops that are not Lightning's: transformers' ``Trainer``, accelerate, compiled models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from lightning_adafactor import Adafactor, TransformersAdafactor, release_gradients
from tests.lightning_adafactor.gradient_release import models
from tests.lightning_adafactor.gradient_release.models import Shape, assert_same_bits

NewModel = Callable[[], transformers.PreTrainedModel]
CONSTANT_LR = {"lr": 1e-2, "scale_parameter": False, "relative_step": False}


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_transformers_trainer(tmp_path: Path, new_model: NewModel, texts: Dataset[Any], reentrant: bool | None) -> None:
    runs = []
    for release in (False, True):
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=4,
            max_steps=4,
            max_grad_norm=0.0,
            gradient_checkpointing=reentrant is not None,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant},
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=0,
        )
        model = new_model()
        optimizer = TransformersAdafactor(model.parameters(), **CONSTANT_LR)
        trainer = Trainer(model=model, args=arguments, train_dataset=texts, optimizers=(optimizer, None))
        if release:
            with release_gradients(optimizer, model, arguments=arguments) as released:
                trainer.train()
            assert 0 < released.peak.elements < sum(param.numel() for param in model.parameters())
        else:
            trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        runs.append({"losses": losses, "state": dict(model.state_dict()), "optimizer": optimizer.state_dict()})
    assert_same_bits(runs[1], runs[0])


def test_accelerate(new_model: NewModel, texts: Dataset[Any]) -> None:
    runs = []
    for release in (False, True):
        accelerator = Accelerator(cpu=True)
        made = new_model()
        schedule = torch.optim.lr_scheduler.LinearLR
        first = Adafactor(made.parameters(), **CONSTANT_LR)
        model, optimizer, loader, scheduler = accelerator.prepare(
            made, first, DataLoader(texts, batch_size=4), schedule(first, 1.0, 0.1, total_iters=12)
        )
        released = release_gradients(optimizer, model) if release else None
        for batch in loader:
            accelerator.backward(model(**batch).loss)
            assert released is None or all(param.grad is None for param in model.parameters())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        runs.append({"state": dict(made.state_dict()), "optimizer": first.state_dict()})
    assert_same_bits(runs[1], runs[0])


@pytest.mark.parametrize(
    ("backend", "whole"),
    [
        pytest.param("aot_eager", False, id="layers"),
        pytest.param("aot_eager", True, id="whole", marks=pytest.mark.slow),
        pytest.param("inductor", False, id="layers, inductor", marks=pytest.mark.slow),
        pytest.param("inductor", True, id="whole, inductor", marks=pytest.mark.slow),
    ],
)
def test_compiled_models(backend: str, whole: bool) -> None:
    runs = []
    for release in (False, True):
        torch.compiler.reset()
        model = models.model(Shape(tied=True))
        optimizer = Adafactor(models.groups(model), compiled=False)
        compiled = torch.compile(model, backend=backend) if whole else model
        for layer in () if whole else model.layers:
            layer.compile(backend=backend)
        if release:
            with release_gradients(optimizer, compiled) as released:
                losses = models.train(compiled, optimizer)
            if not whole:  # all gradients of what is compiled together exist at once
                largest = max(sum(param.numel() for param in block.params) for block in released.blocks)
                assert released.peak.elements == largest
        else:
            losses = models.train(compiled, optimizer)
        runs.append({"losses": losses, "state": dict(model.state_dict()), "optimizer": optimizer.state_dict()})
    assert_same_bits(runs[1], runs[0])
