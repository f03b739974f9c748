"""Work tables of whole models, whose parameters are on the meta device and take no memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.shapes import MODELS
from lightning_adafactor import Adafactor
from lightning_adafactor.entry import Entry
from lightning_adafactor.fused.table import Tiling, WorkTable
from lightning_adafactor.rule import Rule


def entries_of(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, **options: Any) -> list[Entry]:
    """Entries of parameters on the meta device, in the state of the first step."""
    rule = Rule(**{"lr": 1e-2, "stochastic_rounding": True, **options})
    params = [torch.empty(shape, dtype=dtype, device="meta") for shape in shapes]
    states = [Adafactor([param])._new_state(param, rule) for param in params]
    numbered = enumerate(zip(params, states, strict=True))
    return [Entry.of(param, torch.empty_like(param), state, index, rule) for index, (param, state) in numbered]


def table_of(model: str, dtype: torch.dtype, **options: Any) -> WorkTable:
    """The table of a model of ``benchmarks.shapes``."""
    entries = entries_of([shape.size for shape in MODELS[model].shapes], dtype, **options)
    return WorkTable(entries, Tiling.of(dtype), torch.device("cpu"))
