"""Who takes part: this project's Adafactor in its settings, and the optimizers it is compared with."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.util
import pkgutil
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from lightning_adafactor.compiled import library

Rule = Literal["adafactor", "transformers", "adamw"]
"""Whose numbers an optimizer computes: torch's Adafactor, transformers' Adafactor, or AdamW."""

_CONSTANT_LR = {"scale_parameter": False, "relative_step": False}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """An optimizer and its arguments.

    Attributes:
        name: What ``--only`` calls it.
        optimizer: Its class, as ``package:Class`` or ``package.module:Class``.
        arguments: What the class is called with, beside the parameters.
        rule: Whose numbers it must compute.
        graph: Whether its step is recorded in a CUDA graph and replayed.
        limit: The largest relative error of an update, where that is not the dtype's.
    """

    name: str
    optimizer: str
    arguments: dict[str, Any]
    rule: Rule
    graph: bool = False
    limit: float | None = None

    @property
    def ours(self) -> bool:
        """Whether it is this project's."""
        return self.package == "lightning_adafactor"

    @property
    def package(self) -> str:
        """The package that must be installed."""
        return self.optimizer.partition(":")[0].partition(".")[0]

    @property
    def eight_bit(self) -> bool:
        """Whether its moments are quantized to 8 bits."""
        return self.optimizer.endswith("8bit")

    @property
    def call(self) -> str:
        """The optimizer and its arguments as one would write them."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        text = f"{self.optimizer.replace(':', '.')}(..., {arguments})"
        return f"{text} in a CUDA graph" if self.graph else text

    def state_bytes(self, elements: int, dtype: torch.dtype) -> int:
        """Estimates the bytes of the state for that many elements, to see beforehand what will fit."""
        if self.rule != "adamw":
            return elements // 50
        return 2 * elements * (1 if self.eight_bit else dtype.itemsize)

    def start(self, parameters: Sequence[torch.nn.Parameter], **changes: Any) -> Steps:
        """Constructs the optimizer.

        Args:
            parameters: What it is to update.
            changes: Arguments other than those of the contestant.

        Returns:
            Its steps.
        """
        optimizer = pkgutil.resolve_name(self.optimizer)(list(parameters), **{**self.arguments, **changes})
        return (GraphedSteps if self.graph else Steps)(optimizer)


class Steps:
    """An optimizer that can be stepped; call it to take one step.

    Attributes:
        optimizer: The optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def __call__(self) -> None:
        """Takes one step."""
        self.optimizer.step()


class GraphedSteps(Steps):
    """Takes the first step as it is, records the second in a CUDA graph, and replays that from then on."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self._stepped = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Takes one step."""
        if not self._stepped:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.optimizer.step()
            torch.cuda.current_stream().wait_stream(side)
            self._stepped = True
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self.optimizer.step()
        self._graph.replay()


def all_contestants(device: torch.device) -> list[Contestant]:
    """Lists everyone who could take part on a device, installed or not.

    Args:
        device: Where the parameters are.
    """
    return [*_ours(device), *_adafactors(), *_adamws()]


def _ours(device: torch.device) -> list[Contestant]:
    optimizer = "lightning_adafactor:Adafactor"
    paths: list[tuple[str, dict[str, bool], bool]] = [("", {"fused": False, "compiled": False}, False)]
    if device.type == "cpu":
        paths.append(("-compiled", {"compiled": True}, False))
    if device.type == "cuda":
        paths.append(("-fused", {"fused": True}, False))
        paths.append(("-fused-graph", {"fused": True, "capturable": True}, True))
    return [
        Contestant(f"ours{path}{setting}", optimizer, {**arguments, **path_arguments}, "adafactor", graph)
        for path, path_arguments, graph in paths
        for setting, arguments in (("", {"lr": 1e-2}), ("-constant-lr", {"lr": 1e-4, **_CONSTANT_LR}))
    ]


def _adafactors() -> list[Contestant]:
    return [
        Contestant("torch-adafactor", "torch.optim:Adafactor", {"lr": 1e-2, "foreach": False}, "adafactor"),
        Contestant("torch-adafactor-foreach", "torch.optim:Adafactor", {"lr": 1e-2, "foreach": True}, "adafactor"),
        Contestant(
            "transformers-adafactor",
            "transformers.optimization:Adafactor",
            {"lr": 1e-4, **_CONSTANT_LR},
            "transformers",
        ),
    ]


def _adamws() -> list[Contestant]:
    kinds = [
        ("", {"foreach": False, "fused": False}),
        ("-foreach", {"foreach": True}),
        ("-fused", {"fused": True}),
    ]
    return [
        *(Contestant(f"adamw{kind}", "torch.optim:AdamW", {"lr": 1e-4, **how}, "adamw") for kind, how in kinds),
        # with moments of 8 bits, updates are off by a few percent
        *(
            Contestant(f"{package}-adamw8bit", f"{package}.optim:AdamW8bit", {"lr": 1e-4}, "adamw", limit=0.1)
            for package in ("bitsandbytes", "torchao")
        ),
    ]


BASELINES = {"torch-adafactor": "torch's for-loop", "adamw-fused": "fused AdamW"}
"""Whom everyone's time is divided by, and what the columns call them."""


def installed(contestants: Iterable[Contestant]) -> tuple[list[Contestant], dict[str, str]]:
    """Sorts out who can take part.

    Returns:
        Those whose package is installed, and for each other one its name and the reason.
    """
    present: list[Contestant] = []
    absent: dict[str, str] = {}
    for contestant in contestants:
        if importlib.util.find_spec(contestant.package) is None:
            absent[contestant.name] = f"{contestant.package} is not installed"
        elif contestant.arguments.get("compiled") and isinstance(library.load(), str):
            absent[contestant.name] = str(library.load())
        else:
            present.append(contestant)
    return present, absent


def chosen(contestants: Sequence[Contestant], patterns: Sequence[str]) -> list[Contestant]:
    """Selects contestants by name.

    Args:
        contestants: Whom to choose from.
        patterns: Names, in which ``*`` stands for anything.

    Raises:
        ValueError: A pattern fits no one; the message lists all names.
    """
    names = [contestant.name for contestant in contestants]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"--only {pattern} names none of these: {', '.join(names)}")
    return [c for c in contestants if any(fnmatch.fnmatch(c.name, pattern) for pattern in patterns)]
