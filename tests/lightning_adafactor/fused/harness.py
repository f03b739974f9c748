"""Compares runs of the fused step with plain ones and with the rule in float64, on the cases of ``specs``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_adafactor import Adafactor, TransformersAdafactor
from lightning_adafactor.fused.step import FusedAdafactor
from lightning_adafactor.fused.table import Tiling
from lightning_adafactor.work import KeptSteps
from tests.lightning_adafactor import specs

SMALL_TILES = dict.fromkeys((torch.float32, torch.bfloat16, torch.float16), Tiling(16, 64, 16))
"""Small tiles, so that small tensors have several; of few blocks each, which are faster to interpret."""

FEW = [
    "square",
    "batched and transposed",
    "wider than a tile",
    "embedding",
    "vector",
    "scalar",
]
"""One case of ``specs.CASES`` for each path through the kernels, because the interpreter is slow."""

SHAPES = [(16, 24), (3, 5, 8), (20,), ()]
TOLERANCE = 1e-6

Classes = type[Adafactor] | type[TransformersAdafactor]
CLASSES: dict[str, Classes] = {"torch": Adafactor, "transformers": TransformersAdafactor}


def fused(
    params: Any, of: Classes = Adafactor, *, tilings: dict[torch.dtype, Tiling] | None = None, **options: Any
) -> Adafactor:
    """An optimizer with ``fused=True`` and small tiles."""
    optimizer = of(params, fused=True, **options)
    optimizer._kept_steps = KeptSteps(FusedAdafactor(SMALL_TILES if tilings is None else tilings))
    return optimizer


def train(
    optimizer: torch.optim.Optimizer,
    gradients: Callable[[int, int, Tensor], Tensor | None],
    steps: Sequence[int],
) -> None:
    """Takes steps with ``gradients(step, number of the parameter, parameter)``."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in steps:
        for number, param in enumerate(params):
            param.grad = gradients(step, number, param)
        optimizer.step()


def random_gradients(step: int, number: int, param: Tensor) -> Tensor:
    """Normal numbers that depend on the step and on the parameter's number alone."""
    generator = torch.Generator().manual_seed(1000 * step + number)
    return torch.empty_like(param).copy_(torch.randn(param.shape, generator=generator, dtype=torch.float64))


def random_params(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Parameters that depend on their shapes alone."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [value.to(device, dtype).requires_grad_() for value in values]


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """‖ours - theirs‖ / ‖theirs‖ in float64."""
    ours, theirs = ours.detach().cpu().double(), theirs.detach().cpu().double()
    return ((ours - theirs).norm() / theirs.norm().clamp(min=1e-30)).item()


def bits(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All parameters and states as bytes, by name, to be compared bit for bit."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    tensors = {str(number): param.detach() for number, param in enumerate(params)}
    for number, param in enumerate(params):
        tensors |= {f"{number}.{key}": value for key, value in optimizer.state.get(param, {}).items()}
    return {key: value.cpu().contiguous().view(-1).view(torch.uint8).clone() for key, value in tensors.items()}


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert not different, f"bits differ in {different}"


def cases(names: Sequence[str], dtype: torch.dtype, device: str) -> list[Tensor]:
    """The initial parameters of ``specs.CASES``."""
    return [specs.start(name, dtype, device).requires_grad_() for name in names]


def assert_steps_agree(
    ours: torch.optim.Optimizer,
    theirs: torch.optim.Optimizer,
    names: Sequence[str],
    steps: Sequence[int],
    tolerance: float,
) -> None:
    """Takes the same steps with both, asserting equal parameters, updates and states after each."""
    own, other = ours.param_groups[0]["params"], theirs.param_groups[0]["params"]
    wrong = []
    for step in steps:
        before = [[param.detach().cpu().double() for param in pair] for pair in zip(own, other, strict=True)]
        for optimizer in (ours, theirs):
            train(
                optimizer,
                lambda step, number, param: specs.gradient(names[number], step, param.dtype, param.device.type),
                [step],
            )
        for name, one, two, (old, expected_old) in zip(names, own, other, before, strict=True):
            p, q = one.detach().cpu().double(), two.detach().cpu().double()
            # a parameter is rounded when it is written, and its update cannot be known better than that
            rounding = 2 * torch.finfo(two.dtype).eps * q.norm().item()
            compared = {"parameter": (p, q, 0.0), "update": (p - old, q - expected_old, rounding)}
            for key, value in theirs.state[two].items():
                if key != "RMS":
                    compared[key] = (ours.state[one][key].cpu().double(), torch.as_tensor(value).cpu().double(), 0.0)
            if "exp_avg" in compared:  # updates of opposite signs cancel
                compared["exp_avg"] = (*compared["exp_avg"][:2], rounding)
            for what, (a, b, allowance) in compared.items():
                off, norm = (a - b).norm().item(), b.norm().item()
                if not off <= tolerance * norm + allowance:
                    wrong.append(f"{name}, step {step}: {what} off by {off:.3g}, norm {norm:.3g}")
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong[:20]])


def pair(shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A fused optimizer and a plain one, of the same parameters."""
    ours = fused(random_params(shapes, dtype, device), **options)
    return ours, Adafactor(random_params(shapes, dtype, "cpu"), fused=False, compiled=False, **options)


def assert_same_params(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    for mine, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        for param, expected in zip(mine["params"], other["params"], strict=True):
            assert param.numel() == 0 or relative_error(param, expected) < TOLERANCE
