"""Muon and AdamW as one optimizer."""

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from recipes.messages import RecipeError
from recipes.optimizers.muon import MuonWithAdamW
from recipes.training.optimizer import configure


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int = 3) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        loss = model(torch.randn(5, 8, generator=generator)).square().sum()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        yield loss.detach()


def test_each_part_takes_the_steps_of_torchs_own_optimizer(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    matrices = [parameter for parameter in other.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in other.parameters() if parameter.ndim == 1]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(vectors, lr=2e-2, weight_decay=0.1)

    one = list(train(model, [MuonWithAdamW(model.parameters(), lr=1e-2, weight_decay=0.1, adamw_lr=2e-2)]))
    two = list(train(other, [muon, adamw]))

    assert one == two


def test_a_schedule_changes_the_rates_of_both_parts(model: nn.Module) -> None:
    optimizer = MuonWithAdamW(model.parameters(), lr=1e-2, adamw_lr=2e-2)
    schedule = LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    list(train(model, [optimizer], steps=1))
    schedule.step()
    before = copy.deepcopy(model)
    list(train(model, [optimizer], steps=1))

    assert [group["initial_lr"] for group in optimizer.param_groups] == [1e-2, 2e-2]
    assert all(map(torch.equal, model.parameters(), before.parameters()))


def test_a_copy_and_a_pickled_one_still_take_steps_of_both_parts(model: nn.Module) -> None:
    optimizer = MuonWithAdamW(model.parameters())
    list(train(model, [optimizer], steps=1))

    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        parameters = [each for group in other.param_groups for each in group["params"]]
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        other.step()
        assert not any(map(torch.equal, parameters, before))


def test_the_closure_computes_gradients_and_its_loss_is_returned(model: nn.Module) -> None:
    def closure() -> Tensor:
        loss = model(torch.ones(1, 8)).sum()
        loss.backward()
        return loss

    assert MuonWithAdamW(model.parameters()).step(closure).requires_grad


def test_a_torch_without_muon_is_a_recipe_error(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")

    with pytest.raises(RecipeError, match=r"cannot be created: torch .* has no torch.optim.Muon: install torch 2.9"):
        configure(model, None, MuonWithAdamW, schedule=None, warmup=0.0, schedule_args=None)
