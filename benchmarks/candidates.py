"""The optimizers that are measured: this project's Adafactor in several settings, and those it is compared with."""

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
"""The rule that an optimizer computes: torch's Adafactor, transformers' Adafactor, or AdamW."""

_CONSTANT_LR = {"scale_parameter": False, "relative_step": False}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An optimizer and its arguments.

    Attributes:
        name: Its name for ``--only``.
        optimizer: Its class, as ``package:Class`` or ``package.module:Class``.
        arguments: Keyword arguments of the class.
        rule: The rule that it must compute.
        graph: Whether its step is recorded in a CUDA graph and replayed.
        limit: The largest relative error of an update that is allowed; None for the dtype's.
    """

    name: str
    optimizer: str
    arguments: dict[str, Any]
    rule: Rule
    graph: bool = False
    limit: float | None = None

    @property
    def ours(self) -> bool:
        """Whether it is one of this project."""
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
        """The optimizer and its arguments as Python code."""
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        text = f"{self.optimizer.replace(':', '.')}(..., {arguments})"
        return f"{text} in a CUDA graph" if self.graph else text

    def state_bytes(self, elements: int, dtype: torch.dtype) -> int:
        """Estimates the bytes of the state for that many elements, before anything is allocated."""
        if self.rule != "adamw":
            return elements // 50
        return 2 * elements * (1 if self.eight_bit else dtype.itemsize)

    def start(self, parameters: Sequence[torch.nn.Parameter], **changes: Any) -> Steps:
        """Constructs the optimizer.

        Args:
            parameters: The parameters that it updates.
            changes: Arguments that replace the candidate's own.

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
    """Takes the first step directly, records the second one in a CUDA graph, and replays it from then on."""

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


def all_candidates(device: torch.device) -> list[Candidate]:
    """Lists all candidates for a device, installed or not.

    Args:
        device: Where the parameters are.
    """
    return [*_ours(device), *_adafactors(), *_adamws()]


def _ours(device: torch.device) -> list[Candidate]:
    optimizer = "lightning_adafactor:Adafactor"
    paths: list[tuple[str, dict[str, bool], bool]] = [("", {"fused": False, "compiled": False}, False)]
    if device.type == "cpu":
        paths.append(("-compiled", {"compiled": True}, False))
    if device.type == "cuda":
        paths.append(("-fused", {"fused": True}, False))
        paths.append(("-fused-graph", {"fused": True, "capturable": True}, True))
    return [
        Candidate(f"ours{path}{setting}", optimizer, {**arguments, **path_arguments}, "adafactor", graph)
        for path, path_arguments, graph in paths
        for setting, arguments in (("", {"lr": 1e-2}), ("-constant-lr", {"lr": 1e-4, **_CONSTANT_LR}))
    ]


def _adafactors() -> list[Candidate]:
    return [
        Candidate("torch-adafactor", "torch.optim:Adafactor", {"lr": 1e-2, "foreach": False}, "adafactor"),
        Candidate("torch-adafactor-foreach", "torch.optim:Adafactor", {"lr": 1e-2, "foreach": True}, "adafactor"),
        Candidate(
            "transformers-adafactor",
            "transformers.optimization:Adafactor",
            {"lr": 1e-4, **_CONSTANT_LR},
            "transformers",
        ),
    ]


def _adamws() -> list[Candidate]:
    kinds = [
        ("", {"foreach": False, "fused": False}),
        ("-foreach", {"foreach": True}),
        ("-fused", {"fused": True}),
    ]
    return [
        *(Candidate(f"adamw{kind}", "torch.optim:AdamW", {"lr": 1e-4, **how}, "adamw") for kind, how in kinds),
        # with 8-bit moments, updates are off by a few percent
        *(
            Candidate(f"{package}-adamw8bit", f"{package}.optim:AdamW8bit", {"lr": 1e-4}, "adamw", limit=0.1)
            for package in ("bitsandbytes", "torchao")
        ),
    ]


BASELINES = {"torch-adafactor": "torch's for-loop", "adamw-fused": "fused AdamW"}
"""The candidates that all times are divided by, and their titles in tables."""


def installed(candidates: Iterable[Candidate]) -> tuple[list[Candidate], dict[str, str]]:
    """Separates the candidates whose package is installed from the others.

    Returns:
        The installed ones, and for each other one its name and the reason.
    """
    present: list[Candidate] = []
    absent: dict[str, str] = {}
    for candidate in candidates:
        if importlib.util.find_spec(candidate.package) is None:
            absent[candidate.name] = f"{candidate.package} is not installed"
        elif candidate.arguments.get("compiled") and isinstance(library.load(), str):
            absent[candidate.name] = str(library.load())
        else:
            present.append(candidate)
    return present, absent


def chosen(candidates: Sequence[Candidate], patterns: Sequence[str]) -> list[Candidate]:
    """Selects candidates by name.

    Args:
        candidates: The candidates to choose from.
        patterns: Names, where ``*`` matches anything.

    Raises:
        ValueError: A pattern matches no name; the message lists all names.
    """
    names = [candidate.name for candidate in candidates]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"--only {pattern} matches none of: {', '.join(names)}")
    return [c for c in candidates if any(fnmatch.fnmatch(c.name, pattern) for pattern in patterns)]
