"""Launching the kernels as on a GPU, up to the launch itself; needs Triton, and no GPU.

The interpreter calls a kernel as a Python function. A real launch goes through code that Triton generates from the
kernel's signature, with names of its own (``params``, ``options``): an argument of such a name cannot be launched.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

TAKE_A_STEP = """
import json
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lightning_adafactor import Adafactor
from lightning_adafactor.fused.step import FusedAdafactor
from lightning_adafactor.sharded.fused import FusedStages
from lightning_adafactor.tiles import Region
from lightning_adafactor.work import Work
from tests.lightning_adafactor.sharded.alone import shards_of


class NoGpu:
    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


driver.set_active(NoGpu())
launched = []
run = JITFunction.run


def compile_only(kernel, *args, grid, warmup, **kwargs):
    compiled = run(kernel, *args, grid=grid, warmup=True, **kwargs)
    launched.append([kernel.__name__, len(compiled.asm["cubin"])])


JITFunction.run = compile_only
params = [torch.ones(shape, dtype=torch.bfloat16, requires_grad=True) for shape in ((64, 32), (9,))]
for param in params:
    param.grad = torch.ones_like(param)
work = Work()
Adafactor(params, fused=False, compiled=False)._collect(work)
entries = work.plain
FusedAdafactor()(entries)

# of shards, the kernels are bound alone: test_compile.py compiles them
bound = []
JITFunction._do_compile = lambda kernel, *args, **kwargs: bound.append(kernel.__name__)
JITFunction.run = lambda kernel, *args, grid, warmup, **kwargs: run(kernel, *args, grid=grid, warmup=True, **kwargs)
shards, squares, updates = shards_of(entries)
for entry in entries:
    entry.region = Region(tuple(entry.param.shape), (3,) * entry.param.dim())
stages = FusedStages(shards, squares, updates, None, tables={}, tilings={})
stages.sum_squares()
stages.sum_updates(None)
stages.apply_updates(None)
print(json.dumps([launched, bound]))
"""


def test_every_kernel_is_bound_and_compiled_with_the_arguments_of_a_step() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", TAKE_A_STEP], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    launched, bound = json.loads(run.stdout.splitlines()[-1])
    assert [name for name, _ in launched] == [
        "sum_squares",
        "update_factors",
        "sum_updates",
        "find_scalars",
        "apply_updates",
    ]
    assert all(size > 0 for _, size in launched)
    assert bound == [
        "sum_squares",
        "collect_squares",
        "collect_totals",
        "average_squares",
        "sum_updates",
        "collect_totals",
        "find_scalars",
        "apply_updates",
    ]
