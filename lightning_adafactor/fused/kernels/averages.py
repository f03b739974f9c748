"""V on a block of a vector: the first pass updates it, or, of shards, the second one."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.scalars import find_omega
from lightning_adafactor.fused.kernels.tables import ADDED_TO_SQUARES, VARIANCE, load_address, load_option


@triton.jit
def load_average_of_vector(
    param_table,  # int64 (parameters, FIELDS)
    option_table,  # float64 (groups, OPTIONS)
    param,  # row of ``param_table``
    first,  # int64: first element of the tile
):
    """What V is updated with: (pointer to V at the tile, ω, what is added to G²)."""
    variance = load_address(param_table, param, VARIANCE, tl.float32) + first
    omega = find_omega(param_table, param, option_table)
    added = load_option(param_table, param, option_table, ADDED_TO_SQUARES).to(tl.float32)
    return variance, omega, added


@triton.jit
def average_of_block(v, g, omega, added):
    """V after the step."""
    return v * (1.0 - omega) + omega * (g * g + added)
