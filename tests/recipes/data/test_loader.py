"""A resumed epoch goes on where it was interrupted."""

import torch
from torch.utils.data import DistributedSampler

from recipes.data.loader import ResumableLoader


def loader_of(epoch: int = 0) -> ResumableLoader:
    numbers = torch.arange(10)
    sampler = DistributedSampler(numbers, 1, 0, shuffle=True, seed=1)
    sampler.set_epoch(epoch)
    return ResumableLoader(numbers, batch_size=3, sampler=sampler)


def drawn(loader: ResumableLoader) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def test_the_rest_of_an_epoch_follows_what_was_given_out() -> None:
    whole = drawn(loader_of())
    loader = loader_of()
    batches = iter(loader)
    first = [next(batches).tolist() for _ in range(2)]

    resumed = loader_of()
    resumed.resume(loader.place)

    assert first + drawn(resumed) == whole


def test_it_can_be_broken_off_twice() -> None:
    whole = drawn(loader_of())
    state = {"epoch": 0, "batches": 1}
    once = loader_of()
    once.resume(state)
    next(iter(once))

    twice = loader_of()
    twice.resume(once.place)

    assert drawn(twice) == whole[2:]


def test_another_epoch_is_whole() -> None:
    resumed = loader_of(epoch=1)
    resumed.resume({"epoch": 0, "batches": 2})

    assert drawn(resumed) == drawn(loader_of(epoch=1))


def test_the_epoch_after_the_resumed_one_is_whole() -> None:
    resumed = loader_of()
    resumed.resume({"epoch": 0, "batches": 2})
    drawn(resumed)

    assert drawn(resumed) == drawn(loader_of())
