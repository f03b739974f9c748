"""The largest batch that fits, for activations that are given."""

import dataclasses
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_adafactor.memory import StateSize
from recipes.estimate.advice import largest_batch
from recipes.estimate.mesh import Gathered
from recipes.estimate.parts import Estimate

NOTHING = StateSize(0, 0)


def recipe(batch_size: int, of_one: int, each: int, bent: int) -> tuple[Any, Estimate]:
    """A recipe whose activations grow with the batch: by so many bytes for each example, by more in small batches."""

    def activation_bytes(size: int, checkpointing: bool | None = None, released: bool = False) -> int:
        return of_one + each * (size - 1) + bent * min(size - 1, batch_size - size)

    setting = SimpleNamespace(data=SimpleNamespace(batch_size=batch_size), activation_bytes=activation_bytes)
    row = Estimate(
        name="own", optimizer="Own", own=True, dtype="float32", gradient_release=False, parameters=NOTHING,
        gradients=NOTHING, state=StateSize(0, 1000), buffers=0, activations=activation_bytes(batch_size), step=0,
    )  # fmt: skip
    return setting, row


@settings(max_examples=100)
@given(
    batch_size=st.integers(1, 300),
    of_one=st.integers(1, 500),
    each=st.integers(10, 90),
    bent=st.integers(0, 9),
    memory=st.integers(900, 30_000),
)
def test_it_fits_and_one_more_example_does_not(batch_size: int, of_one: int, each: int, bent: int, memory: int) -> None:
    setting, row = recipe(batch_size, of_one, each, bent)

    size = largest_batch(setting, row, memory)

    assert 0 <= size <= batch_size
    assert size == 0 or 1000 + setting.activation_bytes(size) <= memory
    assert size == batch_size or 1000 + setting.activation_bytes(size + 1) > memory


def test_the_step_may_take_the_room_of_what_fsdp2_gathers() -> None:
    setting, row = recipe(batch_size=8, of_one=100, each=100, bent=0)
    row = dataclasses.replace(row, step=1000, gathered=Gathered(parameters=300, gradients=100))

    assert largest_batch(setting, row, memory=2150) == 7
    assert largest_batch(setting, row, memory=1999) == 0
