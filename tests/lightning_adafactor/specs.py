"""The grid on which every implementation of the step is tested against the originals: tensors × options × dtypes.

Three tables, one harness. A new implementation is added to ``IMPLEMENTATIONS``; a new case or option to its table.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

STEPS = 16
SPIKE, MISSING, ALL_ZERO, ZERO_ROW, ZERO_COLUMN = 6, 8, 11, 13, 14
"""Steps on which gradients are 10⁴ times larger, None, zero, zero in the first row and in the first column."""

TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-5}
"""The largest difference from the originals, relative to a tensor's norm, by the dtype of the arithmetic."""


# What is under test ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Implementation:
    """A way to execute the step.

    Attributes:
        arguments: Keyword arguments of the constructor that choose it.
        tile_bytes: Value of ``plain.TILE_BYTES``; None leaves it, so that every case below is one tile.
        device: Device of the tensors.
    """

    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    tile_bytes: int | None = None
    device: str = "cpu"


IMPLEMENTATIONS = {
    "plain": Implementation({"compiled": False}),
    "plain-256-byte-tiles": Implementation({"compiled": False}, tile_bytes=256),
    "compiled": Implementation({"compiled": True}),
}


# Tensors -----------------------------------------------------------------------------------------------------------


def contiguous(values: Tensor) -> Tensor:
    return values.clone(memory_format=torch.contiguous_format)


def transposed(values: Tensor) -> Tensor:
    return values.mT.contiguous().mT


def channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def reversed_in_memory(values: Tensor) -> Tensor:
    dims = tuple(reversed(range(values.dim())))
    return values.permute(dims).contiguous().permute(dims)


def every_other_column(values: Tensor) -> Tensor:
    padded = values.new_zeros(*values.shape[:-1], 2 * values.shape[-1])[..., ::2]
    return padded.copy_(values)


Layout = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """A parameter and its gradients.

    Attributes:
        shape: Their shape.
        layout: Lays out the parameter in memory.
        grad_layout: Lays out the gradients; None is the parameter's layout, as autograd makes them.
        scale: Factor of the random gradients, broadcast over the shape.
        start: Factor of the random initial values.
    """

    shape: tuple[int, ...]
    layout: Layout = contiguous
    grad_layout: Layout | None = None
    scale: float | Callable[[Sequence[int]], Tensor] = 1.0
    start: float = 1.0


def rows_over_twelve_decades(shape: Sequence[int]) -> Tensor:
    return torch.logspace(-12, 0, shape[-2], dtype=torch.float64).unsqueeze(-1)


def columns_over_twelve_decades(shape: Sequence[int]) -> Tensor:
    return torch.logspace(0, -12, shape[-1], dtype=torch.float64)


def few_rows(shape: Sequence[int]) -> Tensor:
    """An embedding's gradient: zero in most rows."""
    return (torch.arange(shape[-2]) % 5 == 2).double().unsqueeze(-1)


CASES = {
    "tall": Case((40, 6)),
    "wide": Case((5, 48)),
    "wider than a tile": Case((3, 300)),
    "square": Case((16, 16)),
    "n×1": Case((90, 1)),
    "1×n": Case((1, 90)),
    "1×1": Case((1, 1)),
    "batched": Case((3, 7, 10)),
    "large batch of small matrices": Case((30, 2, 3)),
    "conv": Case((6, 4, 3, 3)),
    "depthwise conv": Case((8, 1, 3, 3)),
    "vector": Case((100,)),
    "vector of one": Case((1,)),
    "scalar": Case(()),
    "transposed": Case((12, 20), transposed),
    "batched and transposed": Case((3, 5, 8), transposed),
    "transposed 1×n": Case((1, 12), transposed),
    "conv, channels last": Case((6, 4, 3, 3), channels_last),
    "batched, reversed in memory": Case((3, 5, 8), reversed_in_memory),
    "every other column": Case((9, 14), every_other_column),
    "vector of every other": Case((33,), every_other_column),
    "transposed gradient": Case((12, 20), contiguous, transposed),
    "contiguous gradient of transposed": Case((12, 20), transposed, contiguous),
    "every other column of a gradient": Case((9, 14), contiguous, every_other_column),
    "starts at zero": Case((12, 20), start=0.0),
    "tiny parameter": Case((12, 20), start=1e-8),
    "embedding": Case((30, 8), scale=few_rows),
    "rows over twelve decades": Case((26, 10), scale=rows_over_twelve_decades),
    "columns over twelve decades": Case((10, 26), scale=columns_over_twelve_decades),
    "transposed rows over twelve decades": Case((26, 10), transposed, scale=rows_over_twelve_decades),
    "tiny gradient": Case((8, 12), scale=1e-9),
    "tiny gradient of a vector": Case((30,), scale=1e-9),
}


EACH_KIND = (
    "tall",
    "conv",
    "n×1",
    "vector",
    "scalar",
    "transposed",
    "embedding",
    "rows over twelve decades",
)
"""The cases that every option is tested on; the others are tested with the defaults and with all options at once."""


def start(name: str, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """A case's initial parameter."""
    case = CASES[name]
    values = _random(name, "start", case.shape) * case.start
    return case.layout(values.to(device, dtype))


@functools.cache
def gradient(name: str, step: int, dtype: torch.dtype, device: str = "cpu") -> Tensor | None:
    """A case's gradient at a step; always the same tensor."""
    case = CASES[name]
    if step == MISSING:
        return None
    scale = case.scale(case.shape) if callable(case.scale) else case.scale
    values = _random(name, step, case.shape) * scale
    if step == SPIKE:
        values *= 1e4
    if step == ALL_ZERO:
        values.zero_()
    if step == ZERO_ROW and values.dim() > 1:
        values[..., 0, :] = 0
    if step == ZERO_COLUMN and values.dim() > 0:
        values[..., 0] = 0
    return (case.grad_layout or case.layout)(values.to(device, dtype))


def _random(*key_and_shape: Any) -> Tensor:
    *key, shape = key_and_shape
    generator = torch.Generator().manual_seed(zlib.crc32(repr(key).encode()))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# Options -----------------------------------------------------------------------------------------------------------

Options = dict[str, Any]

TORCH_OPTIONS: dict[str, Options] = {
    "defaults": {},
    "lr": {"lr": 0.7},
    "lr 0": {"lr": 0.0},
    "tensor lr": {"lr": torch.tensor(0.02, dtype=torch.float64)},
    "beta2_decay": {"beta2_decay": -0.3},
    "beta2_decay 0": {"beta2_decay": 0.0},
    "eps1": {"eps": (1e-15, 1e-3)},
    "eps1 above many gradients": {"eps": (1e-3, 1e-3)},
    "eps2": {"eps": (None, 2.0)},
    "d": {"d": 1.5},
    "weight_decay": {"weight_decay": 0.1},
    "foreach": {"foreach": True},
    "maximize": {"maximize": True},
    "all": {
        "lr": 0.05,
        "beta2_decay": -0.5,
        "eps": (1e-5, 1e-2),
        "d": 1.2,
        "weight_decay": 0.05,
        "foreach": False,
        "maximize": True,
    },
}
"""Arguments of both ``torch.optim.Adafactor`` and ours."""

ADDED_OPTIONS: dict[str, Options] = {
    "no scaling": {"scale_parameter": False},
    "constant lr": {"scale_parameter": False, "relative_step": False},
    "constant lr, scaled": {"relative_step": False},
    "warmup": {"warmup_init": True},
    "momentum": {"beta1": 0.9},
    "momentum 0": {"beta1": 0.0},
    "fine-tuning": {
        "lr": 3e-3,
        "scale_parameter": False,
        "relative_step": False,
        "weight_decay": 0.1,
        "beta1": 0.8,
        "d": 1.5,
        "eps": (1e-6, 1e-3),
        "maximize": True,
    },
}
"""Arguments of ours alone, in torch's dialect."""

TRANSFORMERS_OPTIONS: dict[str, Options] = {
    "defaults": {},
    "warmup": {"warmup_init": True},
    "constant lr": {"lr": 1e-2, "scale_parameter": False, "relative_step": False},
    "constant lr, scaled": {"lr": 1e-2, "relative_step": False},
    "tensor lr": {"lr": torch.tensor(0.02, dtype=torch.float64), "scale_parameter": False, "relative_step": False},
    "relative lr, not scaled": {"scale_parameter": False},
    "eps1": {"eps": (1e-8, 1e-3)},
    "eps1 above many gradients": {"eps": (1e-6, 1e-3)},
    "eps2": {"eps": (1e-30, 2.0)},
    "clip_threshold": {"clip_threshold": 0.3},
    "decay_rate": {"decay_rate": -0.3},
    "beta1": {"beta1": 0.9},
    "beta1 0": {"beta1": 0.0},
    "weight_decay": {"weight_decay": 0.1},
    "all": {
        "lr": 5e-3,
        "eps": (1e-20, 1e-2),
        "clip_threshold": 2.0,
        "decay_rate": -0.5,
        "beta1": 0.8,
        "weight_decay": 0.05,
        "scale_parameter": True,
        "relative_step": False,
    },
}
"""Arguments of ``transformers.Adafactor``."""


# The harness -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Run:
    """An optimizer's run on a list of cases: parameters and states, by case and step."""

    params: list[list[Tensor]]
    states: list[list[dict[str, Tensor]]]


def run(
    make: Callable[[list[Tensor]], torch.optim.Optimizer],
    names: Sequence[str],
    dtype: torch.dtype,
    *,
    steps: int = STEPS,
    device: str = "cpu",
) -> Run:
    """Takes an optimizer's steps on all cases at once."""
    params = [start(name, dtype, device).requires_grad_() for name in names]
    optimizer = make(params)
    run = Run([[param.detach().clone()] for param in params], [[] for _ in params])
    for step in range(1, steps + 1):
        for name, param in zip(names, params, strict=True):
            param.grad = gradient(name, step, dtype, device)
        optimizer.step()
        for number, param in enumerate(params):
            run.params[number].append(param.detach().clone())
            run.states[number].append(torch_state(optimizer.state[param]))
    return run


def torch_state(state: dict[str, Any]) -> dict[str, Tensor]:
    """A copy of any optimizer's averages and step of a parameter, with torch's names and shapes."""
    names = {"exp_avg_sq_row": "row_var", "exp_avg_sq_col": "col_var", "exp_avg_sq": "variance"}
    missing_dim = {"exp_avg_sq_row": -1, "exp_avg_sq_col": -2}
    copies = {}
    for key, value in state.items():
        if key != "RMS":
            tensor = value.clone() if torch.is_tensor(value) else torch.tensor(float(value))
            copies[names.get(key, key)] = tensor.unsqueeze(missing_dim[key]) if key in missing_dim else tensor
    return copies


def assert_same_run(ours: Run, theirs: Run, names: Sequence[str], tolerance: float) -> None:
    """Asserts equal parameters, updates and states at every step, relative to each tensor's norm."""
    wrong = []
    for number, name in enumerate(names):
        own, other = _by_step(ours, number), _by_step(theirs, number)
        if own.keys() != other.keys():
            wrong.append(f"{name}: state has {sorted(own)} instead of {sorted(other)}")
            continue
        # Updates are differences of rounded parameters, and updates of either sign cancel in their average.
        norms = {what: torch.linalg.vector_norm(values, dim=-1) for what, values in other.items()}
        eps = torch.finfo(theirs.params[number][0].dtype).eps
        roundings = {"updates": 2 * eps * norms["parameters"][1:]}
        if "exp_avg" in other:
            roundings["exp_avg"] = 4 * eps * norms["exp_avg"].cummax(dim=0).values
        for what in other:
            off = torch.linalg.vector_norm(own[what] - other[what], dim=-1)
            norm = norms[what]
            good = off <= tolerance * norm + roundings.get(what, 0.0)
            for step in (~good).nonzero().flatten().tolist():
                wrong.append(f"{name}, {what}[{step}]: off by {off[step]:.3g}, norm {norm[step]:.3g}")
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong[:20]])


def _by_step(run: Run, number: int) -> dict[str, Tensor]:
    """Parameters, updates and state of a case, a row for each step."""
    params = torch.stack([param.flatten().double() for param in run.params[number]])
    states = {
        key: torch.stack([state[key].flatten().double() for state in run.states[number]])
        for key in run.states[number][-1]
    }
    return {"parameters": params, "updates": params.diff(dim=0), **states}
