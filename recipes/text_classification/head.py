"""The output layers of a classifier: found, initialized, and fitted to the outputs of the encoder beneath."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from recipes.messages import RecipeError
from recipes.text_classification.loss import training_loss

ITERATIONS = 200
"""Maximum number of L-BFGS iterations; it ends earlier when the loss no longer falls."""

C = 0.03
"""Inverse strength of the penalty, as in scikit-learn. Chosen among 0.03 to 10 on a validation split of Reuters R8,
with the mean over MiniLM's tokens; there it does as well as a penalty on features that are not scaled."""


def output_layers(model: Any, labels: int) -> list[nn.Linear]:
    """The layers outside the encoder that have an output for each label.

    Args:
        model: A classifier of transformers.
        labels: Number of labels.
    """
    return [
        layer
        for name, layer in model.named_modules()
        if not name.startswith(f"{model.base_model_prefix}.")
        and isinstance(layer, nn.Linear)
        and layer.out_features == labels
    ]


def initialize_head(model: Any, labels: int) -> None:
    """Initializes the output layers as transformers does."""
    for layer in output_layers(model, labels):
        nn.init.normal_(layer.weight, std=getattr(model.config, "initializer_range", 0.02))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


OF_EACH_LABEL = 10
"""Texts of each label that the head is fitted to, if there are as many, where not all texts are used."""


def some_of_each(labels: Sequence[int], most: int) -> list[int]:
    """The numbers of at most ``most`` rows: some of each label, and others at random, the same for the same labels."""
    if len(labels) <= most:
        return list(range(len(labels)))
    seen: Counter[int] = Counter()
    turns = []  # every label comes once before one comes twice, up to OF_EACH_LABEL
    for row in torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist():
        turns.append((min(seen[labels[row]], OF_EACH_LABEL), row))
        seen[labels[row]] += 1
    return sorted(row for _, row in sorted(turns, key=itemgetter(0))[:most])


@torch.no_grad()
def inputs_of(model: nn.Module, layer: nn.Linear, batches: Iterable[Mapping[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """What a layer gets in forward passes without dropout, and the labels.

    Args:
        model: The classifier.
        layer: Its output layer, called once in a forward pass.
        batches: Inputs of the model on its device, with ``labels`` of shape (batch,).

    Returns:
        Features of shape (texts, width) in float32 and labels of shape (texts,), both on the CPU.

    Raises:
        RecipeError: The layer gets a row for each token, as in most decoders, which pool its outputs.
    """
    features: list[Tensor] = []
    labels: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].ndim != 2:
            raise RecipeError(
                f"model.head_first is true, but the output layer of {type(model).__name__} classifies each token of a "
                "text: set model.pooling to mean, or model.head_first to false"
            )
        features.append(inputs[0].float().cpu())

    hook = layer.register_forward_pre_hook(keep)
    training = model.training
    model.eval()
    try:
        for batch in batches:
            model(**{name: tensor for name, tensor in batch.items() if name != "labels"})
            labels.append(batch["labels"].cpu())
    finally:
        hook.remove()
        model.train(training)
    return torch.cat(features), torch.cat(labels)


def fit(layer: nn.Linear, features: Tensor, labels: Tensor, label_smoothing: float, weights: Tensor | None) -> float:
    """Fits a layer by L-BFGS, as a logistic regression on features that do not change; in place.

    The features are centered and divided by one number, so that their mean variance is 1 and the penalty does not
    depend on the encoder's scale: half the weights' sum of squares, divided by :data:`C` and the number of texts.

    Args:
        layer: The layer; its values before do not matter.
        features: Of shape (texts, width), float32, on the CPU.
        labels: Of shape (texts,), on the CPU.
        label_smoothing: As in :func:`~recipes.text_classification.loss.training_loss`.
        weights: Of the labels, likewise.

    Returns:
        The training loss that was reached, without the penalty.
    """
    center = features.mean(0) if layer.bias is not None else torch.zeros(features.shape[1])
    scale = (features - center).square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    scaled = (features - center) / scale
    weight = torch.zeros(layer.weight.shape, requires_grad=True)
    bias = torch.zeros(layer.out_features, requires_grad=layer.bias is not None)
    trained = [weight] if layer.bias is None else [weight, bias]
    optimizer = torch.optim.LBFGS(trained, max_iter=ITERATIONS, line_search_fn="strong_wolfe")
    reached = math.nan

    @torch.enable_grad()
    def closure() -> Tensor:
        nonlocal reached
        optimizer.zero_grad()
        loss = training_loss(nn.functional.linear(scaled, weight, bias), labels, label_smoothing, weights)
        reached = loss.item()
        loss = loss + weight.square().sum() / (2 * C * len(features))
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        weight /= scale
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(bias - weight @ center)
    return reached
