"""Compiles every variant of the fused step's kernels, without a GPU, and prints registers, spills and vector widths.

Usage: ``python -m benchmarks.compile_table [--capability 80 90 100] [--kernel NAME ...] [--all-checks]``. Triton
includes ``ptxas``, so it needs only Triton. One line for each variant: registers, spilled bytes, global loads and
stores of 128 bits and of all, atomic operations.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ARCHITECTURES = {80: "sm_80", 90: "sm_90a", 100: "sm_100a"}
"""The target of ``ptxas``, by compute capability."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
PAIRS = [("fp32", "fp32"), ("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "fp32"), ("fp16", "fp32"), ("fp32", "bf16")]
"""dtypes of parameters and gradients."""

POINTERS = {
    "tiles": "*i32",
    "chunks": "*i32",
    "totals": "*i64",
    "param_table": "*i64",
    "grads": "*i64",
    "option_table": "*fp64",
    "workspace": "*fp32",
    "partial": "*fp32",
    "sums": "*fp32",
    "squares_of_p": "*fp32",
    "squares_of_u": "*fp32",
    "scalars": "*fp32",
    "grad_scale": "*fp32",
    "found_inf": "*fp32",
}
"""Types of the kernels' arguments."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One compilation.

    Attributes:
        kernel: Name of the kernel.
        capability: Compute capability, 90 for sm_90.
        param: dtype of the parameters, a key of ``DTYPES``; None where the kernel does not depend on it.
        grad: dtype of the gradients; likewise.
        checks: Whether ``grad_scale`` is given, and whether ``found_inf`` is.
        momentum: Whether there are averages of updates.
        stochastic: Whether there is stochastic rounding.
        region: ``whole`` for the kernels of whole parameters, ``aligned`` or ``any`` for those of shards.
    """

    kernel: str
    capability: int
    param: str | None = None
    grad: str | None = None
    checks: tuple[bool, bool] = (False, False)
    momentum: bool = False
    stochastic: bool = False
    region: str = "whole"

    def __str__(self) -> str:
        """The kernel, target, dtypes and flags."""
        words = [f"{self.kernel:15}", f"sm_{self.capability}"]
        words += [f"{self.param or '-'}/{self.grad or '-'}"]
        flags = (*self.checks, self.momentum, self.stochastic, self.region != "whole")
        names = ("grad_scale", "found_inf", "momentum", "stochastic", f"shards:{self.region}")
        return " ".join([*words, *itertools.compress(names, flags)])


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compilation of a variant.

    Attributes:
        registers: Registers of a thread.
        spilled: Bytes of registers that are stored to and loaded from memory.
        stack: Bytes of stack of a thread.
        wide_loads: Global loads of 128 bits.
        loads: All global loads.
        wide_stores: Global stores of 128 bits.
        stores: All global stores.
        atomics: Atomic operations and reductions in memory.
    """

    registers: int
    spilled: int
    stack: int
    wide_loads: int
    loads: int
    wide_stores: int
    stores: int
    atomics: int


def variants(capabilities: Sequence[int] = tuple(ARCHITECTURES), *, all_checks: bool = True) -> Iterator[Variant]:
    """Every variant that a step may launch.

    Args:
        capabilities: Compute capabilities.
        all_checks: All four combinations of ``grad_scale`` and ``found_inf``, or only none and both.
    """
    both = [(False, False), (True, True), *([(False, True), (True, False)] if all_checks else [])]
    for capability in capabilities:
        for found_inf in (False, True):
            for kernel in ("update_factors", "find_scalars"):
                yield Variant(kernel, capability, checks=(False, found_inf))
            for kernel in ("average_squares", "find_scalars"):
                yield Variant(kernel, capability, checks=(False, found_inf), region="any")
        for kernel in ("collect_squares", "collect_totals"):
            yield Variant(kernel, capability, region="any")
        for (param, grad), checks in itertools.product(PAIRS, both):
            for kernel, region in itertools.product(("sum_squares", "sum_updates"), ("whole", "any")):
                yield Variant(kernel, capability, param, grad, checks, region=region)
            if param == "bf16":  # the region matters for random bits alone
                for momentum, region in itertools.product((False, True), ("aligned", "any")):
                    yield Variant("apply_updates", capability, param, grad, checks, momentum, True, region)
            for momentum, stochastic in itertools.product((False, True), (False, True)):
                if param == "bf16" or not stochastic:
                    yield Variant("apply_updates", capability, param, grad, checks, momentum, stochastic)


def compile_variant(variant: Variant) -> Compiled:
    """Compiles a variant and reads its PTX and the report of ``ptxas``.

    Raises:
        RuntimeError: Triton interprets kernels instead of compiling them, or ``ptxas`` failed.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 is set, so kernels are interpreted and not compiled: unset it")
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lightning_adafactor.fused import kernels
    from lightning_adafactor.fused.fields import Region
    from lightning_adafactor.fused.launches import WARPS
    from lightning_adafactor.fused.table import Tiling

    kernel = getattr(kernels, variant.kernel)
    tiling = Tiling.of(getattr(torch, DTYPES[variant.param or "fp32"]))
    known: dict[str, Any] = {
        "P": getattr(triton.language, DTYPES[variant.param or "fp32"]),
        "G": getattr(triton.language, DTYPES[variant.grad or "fp32"]),
        "TILE_ROWS": tiling.rows,
        "TILE_COLUMNS": tiling.columns,
        "BLOCK_ROWS": tiling.block_rows,
        "STAGES": tiling.stages,
        "HAS_GRAD_SCALE": variant.checks[0],
        "HAS_FOUND_INF": variant.checks[1],
        "MOMENTUM": variant.momentum,
        "STOCHASTIC": variant.stochastic,
        "SHARDS": variant.region != "whole",
        "REGION": int(Region[variant.region.upper()]),
        "AVERAGES_VECTORS": (variant.kernel == "sum_updates") == (variant.region != "whole"),
    }
    constants = {name: known[name] for name in kernel.arg_names if name in known}
    signature = {name: "constexpr" if name in constants else POINTERS[name] for name in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]] for place, name in enumerate(kernel.arg_names) if name not in constants
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", variant.capability, 32), options={"num_warps": WARPS})
    return _read(built.asm["ptx"], variant.capability)


def _read(ptx: str, capability: int) -> Compiled:
    import triton

    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    ptxas = folder / ("ptxas-blackwell" if capability >= 100 else "ptxas")
    if not ptxas.exists():
        ptxas = folder / "ptxas"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "kernel.ptx"
        source.write_text(ptx)
        command = [ptxas, "-v", "--gpu-name", ARCHITECTURES[capability], source, "-o", f"{scratch}/kernel.cubin"]
        run = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"ptxas failed for {ARCHITECTURES[capability]}: {run.stderr.strip()}")
    said = run.stderr

    copies = r"cp\.async\."  # into shared memory, ahead of time; those with ``cg`` are of 128 bits

    def largest(pattern: str) -> int:
        return max((int(number) for number in re.findall(pattern, said)), default=0)

    return Compiled(
        registers=largest(r"Used (\d+) registers"),
        spilled=largest(r"(\d+) bytes spill stores") + largest(r"(\d+) bytes spill loads"),
        stack=largest(r"(\d+) bytes stack frame"),
        wide_loads=len(re.findall(rf"ld\.global\S*\.v4\.\w32|ld\.global\S*\.v2\.\w64|{copies}cg", ptx)),
        loads=len(re.findall(rf"ld\.global|{copies}c[ag]", ptx)),
        wide_stores=len(re.findall(r"st\.global\S*\.v4\.\w32|st\.global\S*\.v2\.\w64", ptx)),
        stores=len(re.findall(r"st\.global", ptx)),
        atomics=len(re.findall(r"\b(?:atom|red)\.", ptx)),
    )


def row(variant: Variant, compiled: Compiled) -> str:
    """A line of the table."""
    return (
        f"{variant!s:70} {compiled.registers:9} {compiled.spilled:7} {compiled.stack:5} "
        f"{compiled.wide_loads:5}/{compiled.loads:<4} {compiled.wide_stores:5}/{compiled.stores:<4} "
        f"{compiled.atomics:7}"
    )


HEADER = f"{'kernel, target, parameter/gradient':70} registers spilled stack v4/all ld  v4/all st atomics"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if something spills or uses atomics, else 0."""
    parser = argparse.ArgumentParser(
        description="Compile the kernels of the fused step and print registers, spills and vector widths."
    )
    parser.add_argument("--capability", type=int, nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--kernel", nargs="+", help="only these kernels")
    parser.add_argument(
        "--all-checks", action="store_true", help="all combinations of grad_scale and found_inf, not only none and both"
    )
    options = parser.parse_args(arguments)
    print(HEADER)
    bad = 0
    for variant in variants(options.capability, all_checks=options.all_checks):
        if options.kernel is None or variant.kernel in options.kernel:
            compiled = compile_variant(variant)
            bad += compiled.spilled + compiled.stack + compiled.atomics > 0
            print(row(variant, compiled), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
