"""Models that torch's own engines have sharded: numbers, collectives, and bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor.sharded import models, processes, shardings

STEPS = {"fsdp2 and tensor parallel": 20}
"""How many steps are compared; of the others, six."""


def outcome(name: str, kind: type[Adafactor], options: dict[str, Any]) -> dict[str, Any]:
    """Trains a sharded model and one that is not, and counts collectives in a further step of the first."""
    model = models.SHARDINGS[name](models.model())
    alone = models.model()
    optimizer, reference = kind(model.parameters(), **options), kind(alone.parameters(), **options)
    off: dict[str, float] = {}
    for step in range(STEPS.get(name, 6)):
        models.train(model, optimizer, range(step, step + 1))
        for own, other in zip(model.parameters(), alone.parameters(), strict=True):
            other.grad = shardings.whole(own.grad)  # the optimizer alone is compared
        reference.step()
    for (key, own), other in zip(model.named_parameters(), alone.parameters(), strict=True):
        states = optimizer.state[own], reference.state[other]
        for part in states[1]:
            off[f"{key} {part}"] = relative(states[0][part], states[1][part])
        off[key] = relative(own, other)
    with shardings.Counting() as counting:
        optimizer.step()
    return {
        "off": max(off.items(), key=lambda item: item[1]),
        "all_reduces": dict(counting.all_reduces),
        "other collectives": counting.others,
        "sharded": {key for key, param in model.named_parameters() if isinstance(param, DTensor)},
    }


def relative(own: torch.Tensor, other: torch.Tensor) -> float:
    own, other = shardings.whole(own), other.detach()
    return float((own - other).norm() / (other.norm() or 1.0))


def outcomes(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in names:
        found[name] = outcome(name, Adafactor, {})
    found["transformers"] = outcome(
        names[-1], TransformersAdafactor, {"lr": 1e-3, "relative_step": False, "beta1": 0.9, "weight_decay": 0.01}
    )
    return found


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return processes.run(outcomes, 4, tmp_path_factory.mktemp("four"), list(models.SHARDINGS))


@pytest.mark.parametrize("name", [*models.SHARDINGS, "transformers"])
def test_numbers_are_those_of_one_process(of_four: list[dict[str, Any]], name: str) -> None:
    for rank in of_four:
        _, off = rank[name]["off"]
        assert off < 1e-6, rank[name]["off"]


@pytest.mark.parametrize("name", models.SHARDINGS)
def test_a_step_takes_at_most_two_all_reduces_per_process_group(of_four: list[dict[str, Any]], name: str) -> None:
    for rank in of_four:
        assert rank[name]["sharded"]
        assert rank[name]["other collectives"] == 0
        assert set(rank[name]["all_reduces"].values()) <= {1, 2}
    groups = {"fsdp2 and tensor parallel": 2}.get(name, 1)
    assert {len(rank[name]["all_reduces"]) for rank in of_four} == {groups}
