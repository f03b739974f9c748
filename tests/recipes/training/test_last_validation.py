"""A training that ends within an epoch is validated at its last step."""

from typing import Any

import pytest
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from recipes.training.last_validation import ValidateLastStep


class _Validated(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.validated: list[int] = []

    def on_validation_epoch_end(self) -> None:
        self.validated.append(self.trainer.global_step)


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        ({"max_steps": 6}, [4, 6]),
        ({"max_steps": 8}, [4, 8]),
        ({"max_steps": 3, "val_check_interval": 0.5}, [2, 3]),
        ({"max_steps": 3, "accumulate_grad_batches": 3}, [2, 3]),  # two steps in an epoch of four batches
        ({"max_steps": -1, "max_epochs": 1}, [4]),
    ],
    ids=str,
)
def test_the_last_step_is_validated_once(options: dict[str, Any], validated: list[int]) -> None:
    model = _Validated()
    trainer = Trainer(
        accelerator="cpu",
        limit_train_batches=4,
        limit_val_batches=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ValidateLastStep()],
        **{"max_epochs": -1, **options},
    )
    trainer.fit(model)
    assert model.validated == validated
    assert trainer.global_step == validated[-1]
