"""Released gradients give the numbers of the ordinary step, to the bit."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_adafactor import Adafactor, TransformersAdafactor
from tests.lightning_adafactor.gradient_release import models
from tests.lightning_adafactor.gradient_release.models import Shape

OPTIMIZERS: dict[str, models.Make] = {
    "torch": lambda groups: Adafactor(groups, lr=1e-2, compiled=False),
    "fine-tuning": lambda groups: Adafactor(
        groups, lr=1e-2, scale_parameter=False, relative_step=False, beta1=0.9, compiled=False
    ),
    "transformers": lambda groups: TransformersAdafactor(
        groups, lr=1e-2, relative_step=False, weight_decay=0.01, compiled=False
    ),
}

shapes = st.builds(
    Shape,
    depth=st.integers(1, 4),
    tied=st.booleans(),
    shared_layers=st.booleans(),
    checkpointing=st.sampled_from([None, False, True]),
    frozen=st.booleans(),
    experts=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)


@settings(max_examples=25, deadline=None)
@given(shape=shapes, name=st.sampled_from(sorted(OPTIMIZERS)), by=st.sampled_from(["block", "parameter"]))
def test_the_same_bits_as_without_release(shape: Shape, name: str, by: str) -> None:
    without = models.outcome(shape, OPTIMIZERS[name], release=False)
    models.assert_same_bits(models.outcome(shape, OPTIMIZERS[name], release=True, by=by), without)
