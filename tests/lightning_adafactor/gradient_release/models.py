"""A small transformer-like model with all that makes gradient release difficult, and its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lightning_adafactor import Adafactor, release_gradients

VOCABULARY, WIDTH = 13, 8


@dataclasses.dataclass(frozen=True)
class Shape:
    """What the model is like.

    Attributes:
        depth: Number of layers.
        tied: Whether the head has the weight of the embedding.
        shared_layers: Whether all layers have the same weights.
        checkpointing: How activations are recomputed: ``use_reentrant``, or None for not at all.
        frozen: Whether the first layer is frozen.
        experts: Whether each layer has a part that only some steps use.
        dtype: The dtype of the parameters.
    """

    depth: int = 3
    tied: bool = False
    shared_layers: bool = False
    checkpointing: bool | None = None
    frozen: bool = False
    experts: bool = False
    dtype: torch.dtype = torch.float32


class Layer(nn.Module):
    """A residual layer, with a second part that is not used in each step."""

    def __init__(self, experts: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.expert = nn.Linear(WIDTH, WIDTH) if experts else None

    def forward(self, hidden: Tensor, use_expert: bool) -> Tensor:
        hidden = hidden + self.down(torch.tanh(self.up(self.norm(hidden))))
        return hidden if self.expert is None or not use_expert else hidden + self.expert(hidden)


class Model(nn.Module):
    """Embedding, layers, norm, head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer(shape.experts) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.scale = nn.Parameter(torch.ones(()))
        if shape.tied:
            self.head.weight = self.embedding.weight
        if shape.shared_layers:
            for layer in self.layers:
                layer.up.weight = self.layers[0].up.weight

    def forward(self, tokens: Tensor, use_expert: bool = True) -> Tensor:
        hidden = self.embedding(tokens)
        for layer in self.layers:
            if self.shape.checkpointing is None or not self.training:
                hidden = layer(hidden, use_expert)
            else:
                hidden = checkpoint(layer, hidden, use_expert, use_reentrant=self.shape.checkpointing)
        return self.head(self.norm(hidden) * self.scale)


def model(shape: Shape) -> Model:
    """The model, each time with the same weights."""
    torch.manual_seed(0)
    made = Model(shape).to(shape.dtype)
    if shape.frozen:
        made.layers[0].requires_grad_(False)
    return made


def batches(number: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(number):
        yield torch.randint(VOCABULARY, (2, 6), generator=generator)


def groups(of: nn.Module) -> list[dict[str, Any]]:
    """Matrices with weight decay, and the rest, with a lower lr and without."""
    params = [param for param in of.parameters() if param.requires_grad]
    return [
        {"params": [param for param in params if param.dim() > 1], "weight_decay": 0.1},
        {"params": [param for param in params if param.dim() < 2], "lr": 1e-2},
    ]


def loss_of(of: nn.Module, tokens: Tensor, use_expert: bool) -> Tensor:
    logits = of(tokens, use_expert).float()
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def train(
    of: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int = 4,
    after_backward: Callable[[], Any] = lambda: None,
) -> list[float]:
    """Trains with a schedule of the lr; returns the losses."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (step + 1))
    losses = []
    for step, tokens in enumerate(batches(steps)):
        optimizer.zero_grad()
        loss = loss_of(of, tokens, step % 2 == 0)
        loss.backward()
        after_backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


Make = Callable[[Sequence[dict[str, Any]]], Adafactor]


def outcome(shape: Shape, make: Make, release: bool, by: Any = "block", steps: int = 4) -> dict[str, Any]:
    """Losses, parameters and state after a training."""
    trained = model(shape)
    optimizer = make(groups(trained))
    if release:
        with release_gradients(optimizer, trained, by=by):
            losses = train(trained, optimizer, steps)
    else:
        losses = train(trained, optimizer, steps)
    return {"losses": losses, "parameters": trained.state_dict(), "optimizer": optimizer.state_dict()}


def assert_same_bits(one: Any, other: Any) -> None:
    """Asserts that nested dicts and lists hold the same values, tensors to the bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same_bits(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same_bits(left, right)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
