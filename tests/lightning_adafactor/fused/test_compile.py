"""The kernels compiled for real GPUs; needs Triton, but no GPU.

A separate process compiles them, because Triton may be set to interpret in this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch

from benchmarks.compile_table import ARCHITECTURES, DTYPES, HEADER, Compiled, Variant, row, variants
from lightning_adafactor.fused.launches import WARPS
from lightning_adafactor.fused.table import Tiling

COMPILE = """
import dataclasses, json, sys
from benchmarks.compile_table import Variant, compile_variant
for arguments in json.load(sys.stdin):
    variant = Variant(**{**arguments, "checks": tuple(arguments["checks"])})
    print(json.dumps(dataclasses.asdict(compile_variant(variant))), flush=True)
"""

MAX_REGISTERS = {False: 168, True: 216}
"""Without and with momentum: of 65,536 registers, 128 threads leave room for three or two programs on a
multiprocessor, as many as their shared memory does."""

MAX_SPILLED = 32  # bytes, around a division of 64-bit integers: 8 with Triton 3.7, 32 with 3.6 for sm_80

REPRESENTATIVE = [
    ("sum_updates", "bf16", "fp32", (True, True), False, False),
    ("find_scalars", None, None, (False, True), False, False),
    ("apply_updates", "fp32", "fp32", (False, False), True, False),
    ("apply_updates", "bf16", "bf16", (True, True), True, True),
]
"""The largest kernels and combinations of flags, for one architecture; test_launch.py compiles every kernel, and the
other slow test all variants for all architectures."""


def compile_all(chosen: Sequence[Variant]) -> list[Compiled]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE],
        input=json.dumps([vars(variant) for variant in chosen]),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    compiled = [Compiled(**json.loads(line)) for line in run.stdout.splitlines()]
    print("\n".join([HEADER, *map(row, chosen, compiled)]))
    assert len(compiled) == len(chosen)
    return compiled


def wide_accesses(variant: Variant) -> tuple[int, int]:
    """128-bit loads and stores of G, p and averages by one thread, in one block of a matrix and one of a vector.

    Of shards that of a matrix alone is counted: their vectors are read in smaller blocks.
    """
    if variant.param is None or variant.grad is None:
        return 0, 0
    param, grad = (getattr(torch, DTYPES[name]) for name in (variant.param, variant.grad))
    tiling = Tiling.of(param)
    elements = tiling.block_rows * tiling.columns // (32 * WARPS)
    if variant.kernel == "apply_updates" and variant.region == "any":
        elements //= 2
    g, p, average = (elements * size // 16 for size in (grad.itemsize, param.itemsize, 4 * variant.momentum))
    loads, stores = {
        "sum_squares": (g + p, 0),
        "sum_updates": (g, 0),
        "apply_updates": (g + p + average, p + average),
    }[variant.kernel]
    blocks = 2 if variant.region == "whole" else 1
    return blocks * loads, blocks * stores


def check(chosen: Sequence[Variant]) -> None:
    for variant, compiled in zip(chosen, compile_all(chosen), strict=True):
        assert compiled.spilled <= MAX_SPILLED, variant
        assert compiled.stack <= MAX_SPILLED, variant
        assert compiled.atomics == 0, variant
        assert 0 < compiled.registers <= MAX_REGISTERS[variant.momentum], variant
        loads, stores = wide_accesses(variant)
        assert compiled.wide_loads >= loads, variant
        assert compiled.wide_stores >= stores, variant


@pytest.mark.slow
def test_representative_variants_spill_next_to_nothing_and_access_memory_by_128_bits() -> None:
    check([Variant(kernel, 90, *rest) for kernel, *rest in REPRESENTATIVE])


@pytest.mark.slow
@pytest.mark.parametrize("capability", ARCHITECTURES)
def test_every_variant_spills_next_to_nothing_and_accesses_memory_by_128_bits(capability: int) -> None:
    check(list(variants([capability], all_checks=False)))


def test_interpreted_kernels_are_refused_with_the_reason() -> None:
    run = subprocess.run(
        [sys.executable, "-c", COMPILE],
        input=json.dumps([vars(Variant("find_scalars", 90))]),
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "TRITON_INTERPRET=1 is set, so kernels are interpreted and not compiled" in run.stderr
