"""Activations are moved to the host after the forward pass and back for the backward pass; nothing else changes."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recipes.training.offloading import Moved, Offloading, offload_activations


class Model(nn.Module):
    """Two layers, with or without checkpointing."""

    def __init__(self, checkpointing: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            x = checkpoint(layer, x, use_reentrant=False) if self.checkpointing else layer(x)
            x = x.tanh()
        return x


def gradients(model: nn.Module) -> list[Tensor]:
    model.zero_grad()
    model(torch.linspace(-1, 1, 32 * 64).view(32, 64)).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[Moved]:
    """What is moved, where all tensors count as a GPU's."""
    found: list[Moved] = []
    pack = Offloading.pack

    def recorded(self: Offloading, tensor: Tensor) -> Tensor | Moved:
        kept = pack(self, tensor)
        if isinstance(kept, Moved):
            found.append(kept)
        return kept

    monkeypatch.setattr(Offloading, "_is_on_host", lambda self, tensor: False)
    monkeypatch.setattr(Offloading, "pack", recorded)
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_have_the_same_bits(checkpointing: bool, moved: list[Moved]) -> None:
    model = Model(checkpointing)
    expected = gradients(model)
    offload_activations(model)
    found = gradients(model)
    assert moved
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_parameters_and_small_tensors_stay(moved: list[Moved]) -> None:
    model = Model()
    offload_activations(model)
    gradients(model)
    assert {tuple(each.tensor.shape) for each in moved} == {(32, 64)}  # a weight is (64, 64)


def test_nothing_is_moved_on_a_cpu() -> None:
    model = Model()
    offloading = offload_activations(model)
    tensor = torch.zeros(1024)
    assert offloading.pack(tensor) is tensor
    gradients(model)


def test_nothing_is_moved_after_it_is_turned_off(moved: list[Moved]) -> None:
    model = Model()
    offload_activations(model).enabled = False
    gradients(model)
    assert not moved


def test_the_hooks_end_with_a_forward_pass_that_raises(moved: list[Moved]) -> None:
    model = Model()
    offload_activations(model)
    with pytest.raises(RuntimeError):
        model(torch.zeros(2, 3))
    (torch.ones(1024, requires_grad=True) ** 2).sum().backward()
    assert not moved
