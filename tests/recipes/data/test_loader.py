"""A resumed epoch continues where it was interrupted."""

import random

import pytest
import torch
from torch.utils.data import DistributedSampler

from recipes.data.loader import ResumableLoader
from recipes.text_classification.sampler import LengthGroupedSampler


def loader_of(epoch: int = 0, batch_size: int = 3, num_workers: int = 0) -> ResumableLoader:
    numbers = torch.arange(10)
    sampler = DistributedSampler(numbers, 1, 0, shuffle=True, seed=1)
    sampler.set_epoch(epoch)
    return ResumableLoader(numbers, batch_size=batch_size, sampler=sampler, num_workers=num_workers)


def drawn(loader: ResumableLoader) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_the_rest_of_an_epoch_follows_the_rows_yielded_before() -> None:
    whole = drawn(loader_of())
    loader = loader_of()
    batches = iter(loader)
    first = [next(batches).tolist() for _ in range(2)]

    resumed = loader_of()
    resumed.resume(loader.place)

    assert first + drawn(resumed) == whole


def test_it_can_be_interrupted_twice() -> None:
    whole = drawn(loader_of())
    state = {"epoch": 0, "rows": 3, "replicas": 1, "order": 3}
    once = loader_of()
    once.resume(state)
    next(iter(once))

    twice = loader_of()
    twice.resume(once.place)

    assert drawn(twice) == whole[2:]


def test_another_epoch_is_whole() -> None:
    resumed = loader_of(epoch=1)
    resumed.resume({"epoch": 0, "rows": 6, "replicas": 1, "order": 3})

    assert drawn(resumed) == drawn(loader_of(epoch=1))


def test_the_epoch_after_the_resumed_one_is_whole() -> None:
    resumed = loader_of()
    resumed.resume({"epoch": 0, "rows": 6, "replicas": 1, "order": 3})
    drawn(resumed)

    assert drawn(resumed) == drawn(loader_of())


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 16])
def test_the_rest_is_each_remaining_row_once_whatever_the_batch_size(batch_size: int, num_workers: int) -> None:
    before = loader_of()
    batches = iter(before)
    first = [*next(batches).tolist(), *next(batches).tolist()]
    resumed = loader_of(batch_size=batch_size, num_workers=num_workers)
    resumed.resume(before.place)
    assert resumed.batches_left == -(-4 // batch_size)

    rest = drawn(resumed)

    assert [len(batch) for batch in rest[:-1]] == [batch_size] * (len(rest) - 1)
    assert first + flat(rest) == flat(drawn(loader_of()))
    assert len(rest) == -(-4 // batch_size)


def test_a_position_counted_in_batches_is_understood() -> None:
    resumed = loader_of()
    resumed.resume({"epoch": 0, "batches": 2})
    assert drawn(resumed) == drawn(loader_of())[2:]


def grouped(batch_size: int) -> ResumableLoader:
    lengths = random.Random(0).choices(range(3, 65), k=50)
    sampler = LengthGroupedSampler(lengths, batch_size, num_replicas=1, rank=0, seed=1)
    return ResumableLoader(torch.arange(50), batch_size=batch_size, sampler=sampler)


def test_an_interrupted_epoch_keeps_the_order_of_the_batch_size_it_started_with() -> None:
    first = grouped(8)
    batches = iter(first)
    seen = next(batches).tolist() + next(batches).tolist()
    second = grouped(4)
    second.resume(first.place)
    batches = iter(second)
    seen += next(batches).tolist()
    third = grouped(16)
    third.resume(second.place)
    assert seen + flat(drawn(third)) == flat(drawn(grouped(8)))
    assert drawn(third) == drawn(grouped(16))


def test_the_random_numbers_of_the_model_are_not_drawn_from() -> None:
    before = torch.get_rng_state()
    drawn(loader_of())
    assert torch.equal(torch.get_rng_state(), before)
