"""What the base classes do for every task: sharding among processes, and metrics that count no row twice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from recipes import LanguageModel, LanguageModelingData, TextClassificationData, TextClassifier
from recipes.language_modeling.metrics import TokenMetrics
from recipes.text_classification.metrics import classification_metrics

NODES, PER_NODE = 2, 2


def share(data: Any, pretrained: Path, rank: int) -> list[int]:
    """The indices of the examples that a process draws."""
    data.tokenize_for(str(pretrained))
    data.trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        limit_val_batches=1.0,
        limit_test_batches=1.0,
        strategy=None,
        world_size=NODES * PER_NODE,
        global_rank=rank,
    )
    data.setup("fit")
    return list(data.train_dataloader().sampler)


def assert_disjoint_and_complete(shares: list[list[int]]) -> None:
    drawn = [number for numbers in shares for number in numbers]
    examples = set(drawn)
    assert examples == set(range(max(examples) + 1))
    # the samplers repeat a few examples so that all shares have the same size
    assert len(drawn) - len(examples) < len(shares)
    assert len({len(numbers) for numbers in shares}) == 1


@pytest.mark.parametrize("group_by_length", [True, False])
def test_processes_of_all_nodes_share_the_rows(group_by_length: bool, tiny_model: Path, wires_csv: Path) -> None:
    assert_disjoint_and_complete(
        [
            share(
                TextClassificationData(
                    "headline", "desk", str(wires_csv), max_length=16, batch_size=3, group_by_length=group_by_length
                ),
                tiny_model,
                rank,
            )
            for rank in range(NODES * PER_NODE)
        ]
    )


def test_processes_of_all_nodes_share_the_blocks(tiny_lm: Path, tales_csv: Path) -> None:
    assert_disjoint_and_complete(
        [
            share(LanguageModelingData(str(tales_csv), text="Content", block_size=16), tiny_lm, rank)
            for rank in range(NODES * PER_NODE)
        ]
    )


def evaluated_by(world_size: int, module: Any, data: Any, metrics: Any) -> dict[str, Any]:
    """The metrics that processes get together, each with its own batches."""
    ranks, passes = [], set()
    for rank in range(world_size):
        data.trainer.world_size, data.trainer.global_rank = world_size, rank
        own, loader = metrics.clone(), data.val_dataloader()
        for batch in loader:
            labels = batch.pop("labels")
            with torch.no_grad():
                own.update(module(**batch), labels)
        ranks.append(own)
        passes.add(len(loader))
    assert len(passes) == 1  # FSDP2 gathers in each forward pass
    parts = [list(own.values(copy_state=False)) if hasattr(own, "values") else [own] for own in ranks]
    for others in parts[1:]:
        for first, other in zip(parts[0], others, strict=True):
            first.merge_state(other)
    return ranks[0].compute()


@pytest.mark.parametrize("batch_size", [4, 16, 64])  # 23 rows: 6 batches, 2, and 1 for all processes
def test_metrics_are_the_same_to_the_last_digit_on_any_number_of_processes(
    batch_size: int, tiny_model: Path, wires_csv: Path
) -> None:
    data = TextClassificationData(
        "headline", "desk", str(wires_csv), validation=0.19, max_length=16, eval_batch_size=batch_size
    )
    module = loaded(TextClassifier(str(tiny_model)), data, tiny_model)
    metrics = classification_metrics(3, "val")
    assert len(data.splits["validation"]) == 23

    alone, *others = [evaluated_by(processes, module, data, metrics) for processes in (1, 2, 3, 5)]

    assert all(other == alone for other in others)
    labels = torch.tensor(data.splits["validation"]["labels"][:])
    rows = [{key: row[key] for key in row} for row in data.splits["validation"]]
    batch = data.collate(rows)
    batch.pop("labels")
    with torch.no_grad():
        logits = module(**batch)
    assert alone["val/accuracy"].item() == pytest.approx((logits.argmax(-1) == labels).float().mean().item())
    assert alone["val/loss"].item() == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_token_metrics_are_the_same_to_the_last_digit_on_all_of_them(tiny_lm: Path, tales_csv: Path) -> None:
    data = LanguageModelingData(str(tales_csv), text="Content", block_size=16, validation=0.2, eval_batch_size=4)
    module = loaded(LanguageModel(str(tiny_lm)), data, tiny_lm)

    alone, *others = [evaluated_by(processes, module, data, TokenMetrics()) for processes in (1, 2, 3, 40)]

    assert len(data.splits["validation"]) % 4
    assert all(other == alone for other in others)


def loaded(module: Any, data: Any, pretrained: Path) -> Any:
    """The module with its model, in evaluation mode."""
    data.tokenize_for(str(pretrained))
    data.trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        limit_val_batches=1.0,
        limit_test_batches=1.0,
        strategy=None,
        world_size=1,
        global_rank=0,
    )
    data.setup("fit")
    module.model = module.make_model(data, weights=True)
    return module.eval()
