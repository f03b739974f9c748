"""The scalars of a step: ω, and of each parameter α, clipping and weight decay. The table is in ``rule.py``."""

from __future__ import annotations

import triton
import triton.language as tl

from lightning_adafactor.fused.kernels.tables import (
    BETA2_DECAY,
    COLUMN_TILES,
    COLUMNS,
    DECAY_BY_ALPHA,
    DECAY_FACTOR,
    EPS2,
    FIRST_TILE,
    GROUP,
    LR,
    LR_IS_DOUBLE,
    MATRICES,
    NUMEL,
    OPTION_COUNT,
    PARAM_SLOT,
    RELATIVE_STEP,
    RMS,
    ROW_TILES,
    ROWS,
    SCALAR_COUNT,
    SCALAR_STEP,
    SCALE_PARAMETER,
    SIGN,
    SPAN,
    STEP,
    UPDATE_SCALE,
    UPDATE_SLOT,
    WARMUP_INIT,
    WEIGHT_DECAY,
    D,
    load_address,
    load_field,
    load_option,
    load_shard_field,
    should_step,
)


@triton.jit
def load_next_step(param_table, param):
    """t of the step that is being taken; float64."""
    return tl.load(load_address(param_table, param, STEP, tl.float32)).to(tl.float64) + 1.0


@triton.jit
def find_omega(param_table, param, option_table):
    """ω = 1 - β̂₂ₜ = t^beta2_decay, float32."""
    t = load_next_step(param_table, param)
    return tl.exp(load_option(param_table, param, option_table, BETA2_DECAY) * tl.log(t)).to(tl.float32)


@triton.jit
def sum_in_order(partial, count):
    """Sum of ``count`` partial sums, float64, in an order that depends on the count alone."""
    total = tl.zeros((SPAN,), tl.float64)
    for first in range(0, count, SPAN):
        at = first + tl.arange(0, SPAN)
        total += tl.load(partial + at, mask=at < count, other=0.0).to(tl.float64)
    return tl.sum(total, axis=0)


@triton.jit
def find_scalars(
    param_table,  # int64 (parameters, FIELDS)
    option_table,  # float64 (groups, OPTIONS)
    squares_of_p,  # float32 (tiles,): partial Σp²; of shards, the processes' sums, float32 or float64
    squares_of_u,  # float32 (tiles,): partial ΣU²; likewise
    scalars,  # float32 (parameters, SCALARS), written
    found_inf,  # one float32, or anything without HAS_FOUND_INF
    HAS_FOUND_INF: tl.constexpr,
    SHARDS: tl.constexpr,  # the parameters are shards
):
    """One parameter's update scale and decay factor; counts its step and records RMS(p)."""
    if should_step(found_inf, HAS_FOUND_INF):
        param = tl.program_id(0).to(tl.int64)
        group = option_table + load_field(param_table, param, GROUP) * OPTION_COUNT
        if SHARDS:
            first_p = load_shard_field(param_table, param, PARAM_SLOT)
            first_u = load_shard_field(param_table, param, UPDATE_SLOT)
            count = 1
            numel = load_shard_field(param_table, param, NUMEL).to(tl.float64)
        else:
            count = load_field(param_table, param, MATRICES) * load_field(param_table, param, ROW_TILES)
            count = count * load_field(param_table, param, COLUMN_TILES)
            first_p = load_field(param_table, param, FIRST_TILE)
            first_u = first_p
            elements = load_field(param_table, param, MATRICES) * load_field(param_table, param, ROWS)
            numel = (elements * load_field(param_table, param, COLUMNS)).to(tl.float64)
        t = load_next_step(param_table, param)
        if load_field(param_table, param, LR_IS_DOUBLE) != 0:
            lr = tl.load(load_address(param_table, param, LR, tl.float64))
        else:
            lr = tl.load(load_address(param_table, param, LR, tl.float32)).to(tl.float64)

        rho = lr
        if tl.load(group + RELATIVE_STEP) != 0:
            rho = tl.minimum(rho, 1.0 / tl.sqrt(t))
            if tl.load(group + WARMUP_INIT) != 0:
                rho = tl.minimum(rho, 1e-6 * t)
        alpha = rho
        if tl.load(group + SCALE_PARAMETER) != 0:
            rms = tl.sqrt(sum_in_order(squares_of_p + first_p, count) / numel)
            smallest = tl.load(group + EPS2)
            alpha = rho * tl.where(rms > smallest, rms, smallest)  # the smallest if NaN, on every device
            recorded = load_field(param_table, param, RMS)
            if recorded != 0:
                tl.store(recorded.to(tl.pointer_type(tl.float32)), rms.to(tl.float32))
        rms_of_update = tl.sqrt(sum_in_order(squares_of_u + first_u, count) / numel)
        excess = rms_of_update / tl.load(group + D)
        clip = tl.where(excess > 1.0, excess, 1.0)  # 1 if NaN, on every device
        decay = tl.load(group + WEIGHT_DECAY)
        decay_factor = 1.0 - decay * tl.where(tl.load(group + DECAY_BY_ALPHA) != 0, alpha, lr)

        result = scalars + param * SCALAR_COUNT
        tl.store(result + UPDATE_SCALE, (tl.load(group + SIGN) * alpha / clip).to(tl.float32))
        tl.store(result + DECAY_FACTOR, decay_factor.to(tl.float32))
        tl.store(result + SCALAR_STEP, t.to(tl.float32))
        tl.store(load_address(param_table, param, STEP, tl.float32), t.to(tl.float32))
