"""A training that is far behind another one is stopped."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from recipes.messages import TrainingHopeless
from recipes.training.hopeless import StopWhenHopeless


def validate(callback: StopWhenHopeless, step: int, value: float, **changes: Any) -> None:
    trainer = SimpleNamespace(
        callback_metrics={"val/f1": torch.tensor(value)},
        global_step=step,
        estimated_stepping_batches=100,
        sanity_checking=False,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
    )
    vars(trainer).update(changes)
    callback.on_validation_end(trainer, None)  # type: ignore[arg-type]


def test_a_run_behind_the_target_at_half_of_its_steps_is_stopped() -> None:
    callback = StopWhenHopeless("val/f1", "max", 0.5)
    validate(callback, 25, 0.1)
    with pytest.raises(TrainingHopeless, match=r"hopeless: val/f1 has reached 0.3 after 50 of 100 steps"):
        validate(callback, 50, 0.3)


def test_its_best_value_so_far_counts() -> None:
    callback = StopWhenHopeless("val/f1", "max", 0.5)
    validate(callback, 25, 0.6)
    validate(callback, 75, 0.3)


def test_a_lower_loss_is_better() -> None:
    callback = StopWhenHopeless("val/f1", "min", 0.5)
    validate(callback, 50, 0.4)
    with pytest.raises(TrainingHopeless):
        validate(StopWhenHopeless("val/f1", "min", 0.5), 50, 0.6)


@pytest.mark.parametrize(
    "changes",
    [
        {"global_step": 100},
        {"sanity_checking": True},
        {"state": SimpleNamespace(fn=TrainerFn.TESTING)},
        {"callback_metrics": {}},
        {"estimated_stepping_batches": float("inf")},
    ],
    ids=["at the end", "sanity check", "test", "no metric", "no length"],
)
def test_it_does_not_stop(changes: dict[str, Any]) -> None:
    validate(StopWhenHopeless("val/f1", "max", 0.5), 60, 0.1, **changes)
