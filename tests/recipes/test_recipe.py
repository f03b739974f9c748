"""What the base classes do for every task: sharding among processes, and metrics that count no row twice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipes import LanguageModelingData, TextClassificationData

NODES, PER_NODE = 2, 2


def share(data: Any, pretrained: Path, rank: int) -> list[int]:
    """The indices of the examples that a process draws."""
    data.tokenize_for(str(pretrained))
    data.trainer = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        world_size=NODES * PER_NODE,
        global_rank=rank,
        local_rank=rank % PER_NODE,
        node_rank=rank // PER_NODE,
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


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_no_row_is_evaluated_twice_for_any_number_of_processes(
    world_size: int, tiny_model: Path, wires_csv: Path
) -> None:
    data = TextClassificationData("headline", "desk", str(wires_csv), validation=0.19, max_length=16, eval_batch_size=4)
    data.tokenize_for(str(tiny_model))
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), world_size=world_size, global_rank=0)
    data.setup("fit")

    labels = [label for batch in data.val_dataloader() for label in batch["labels"].tolist()]

    assert len(labels) % world_size == 0
    assert sorted(label for label in labels if label >= 0) == sorted(data.splits["validation"]["labels"])
    assert len(data.splits["validation"]) == 23
