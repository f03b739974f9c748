"""Length-grouped batches: each example once, little padding, no order of length, on one process or many."""

import random
from itertools import pairwise

import pytest

from recipes.text_classification.sampler import LengthGroupedSampler

LENGTHS = random.Random(0).choices(range(3, 65), k=1003)


def batches(rank: int = 0, replicas: int = 1, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    sampler = LengthGroupedSampler(LENGTHS, batch_size=8, num_replicas=replicas, rank=rank, seed=seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler)
    return [order[start : start + 8] for start in range(0, len(order), 8)]


def test_every_example_is_drawn_once() -> None:
    assert sorted(i for batch in batches() for i in batch) == list(range(1003))


def test_batches_need_little_padding() -> None:
    padded = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in batches())

    assert padded < 1.1 * sum(LENGTHS)


def test_only_the_last_batch_is_incomplete() -> None:
    assert [len(batch) for batch in batches()] == [8] * 125 + [3]


def test_lengths_do_not_fall_from_batch_to_batch() -> None:
    longest = [max(LENGTHS[i] for i in batch) for batch in batches()]
    falls = sum(later < earlier for earlier, later in pairwise(longest))

    assert 0.4 < falls / len(longest) < 0.6


def test_order_follows_from_seed_and_epoch() -> None:
    assert batches(seed=1, epoch=2) == batches(seed=1, epoch=2)
    assert batches(seed=1, epoch=2) != batches(seed=1, epoch=3)
    assert batches(seed=1, epoch=2) != batches(seed=5, epoch=2)


@pytest.mark.parametrize("replicas", [2, 3])
def test_processes_share_all_examples_and_draw_alike_lengths_together(replicas: int) -> None:
    shares = [batches(rank, replicas) for rank in range(replicas)]

    assert {len(share) for share in shares} == {len(shares[0])}
    drawn = [i for share in shares for batch in share for i in batch]
    assert set(drawn) == set(range(1003))
    assert len(drawn) - 1003 < replicas  # some rows twice, so that all shares are of one size
    together = [[i for batch in step for i in batch] for step in zip(*shares, strict=True)]
    assert sum(len(step) * max(LENGTHS[i] for i in step) for step in together) < 1.2 * sum(LENGTHS)
