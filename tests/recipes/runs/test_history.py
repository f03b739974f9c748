"""What a run's history notes, batch by batch."""

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from recipes.runs.history import RunHistory


class _Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[float] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = (self.layer(batch["x"]) - batch_idx).square().mean()
        self.seen.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-2)


def _fit(**arguments: object) -> tuple[_Model, RunHistory]:
    module, history = _Model(), RunHistory()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[history],
        **arguments,
    )
    trainer.fit(module, DataLoader([{"x": torch.ones(1)} for _ in range(8)], batch_size=2))
    return module, history


@pytest.mark.parametrize(
    ("accumulated", "every", "steps"),
    [(1, 2, [2, 4]), (2, 1, [1, 2]), (3, 1, [1, 2])],
    ids=["no accumulation", "two batches a step", "three batches a step, the last step of one"],
)
def test_a_recorded_loss_is_the_mean_over_its_batches_for_any_accumulation(
    accumulated: int, every: int, steps: list[int]
) -> None:
    module, history = _fit(accumulate_grad_batches=accumulated, log_every_n_steps=every)

    assert [step for step, _, _ in history.losses] == steps
    batches = [accumulated * every] * (len(steps) - 1)
    batches.append(len(module.seen) - sum(batches))
    starts = [sum(batches[:i]) for i in range(len(batches))]
    expected = [sum(module.seen[start : start + n]) / n for start, n in zip(starts, batches, strict=True)]
    assert [loss for _, loss, _ in history.losses] == pytest.approx(expected)


def test_every_example_is_counted_once() -> None:
    _, history = _fit()

    assert history.samples == 8
