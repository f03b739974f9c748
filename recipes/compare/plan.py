"""The runs of a comparison: optimizers, learning rates and seeds, and the command of each run."""

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.cli.config_files import ConfigFile
from recipes.cli.optimizer_files import Choice
from recipes.messages import RecipeError
from recipes.runs.folder import config_name

RATE_OPTION = "--model.init_args.optimizer.init_args.lr"
DEFAULT_SEED = 42
FIT = [sys.executable, "-m", "recipes.fit"]
"""The program that trains. Each run is a separate process, so that peak memory is its own."""


@dataclass(frozen=True)
class Rate:
    """A learning rate of a sweep: a number, or a multiple of the rate in each optimizer's file."""

    number: float
    relative: bool

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Parses ``3e-4``, or ``x3`` for three times the rate in the file.

        Raises:
            RecipeError: It is neither, or not positive.
        """
        relative = text[:1] in ("x", "×")
        try:
            number = float(text[1:] if relative else text)
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise RecipeError(
                f"--sweep-lr {text}: expected learning rates such as 3e-4, or x0.3 for 0.3 times the rate in each "
                "optimizer's file"
            )
        return cls(number, relative)


DEFAULT_SWEEP = (Rate(0.3, True), Rate(1.0, True), Rate(3.0, True))


@dataclass(frozen=True)
class Trial:
    """One run: an optimizer, its learning rate (None: the optimizer's own) and a seed.

    Attributes:
        plan: The comparison that it belongs to.
    """

    plan: "Plan"
    choice: Choice
    rate: float | None
    seed: int

    @property
    def title(self) -> str:
        """Its title on the screen."""
        rate = "its own lr" if self.rate is None else f"lr {self.rate:g}"
        return f"{self.choice.name}, {rate}, seed {self.seed}"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything its result depends on: trials with equal settings are the same run."""
        return {
            "recipe": [config.settings for config in self.plan.configs],
            "options": self.plan.options,
            "optimizer": dict(self.choice.settings),
            "lr": self.rate,
            "seed": self.seed,
        }

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that identify the settings."""
        text = json.dumps(self.settings, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def folder(self) -> Path:
        """Its folder in that of the comparison, a different one for different settings."""
        rate = "own" if self.rate is None else f"{self.rate:g}"
        return self.plan.out / self.choice.name / f"lr-{rate}_seed-{self.seed}_{self.digest}"

    @property
    def command(self) -> list[str]:
        """The command that trains it."""
        command = list(FIT)
        for config in (*self.plan.configs, self.choice.config):
            command += ["--config", str(config.path)]
        command += self.plan.options
        if self.rate is not None:
            command += [RATE_OPTION, repr(self.rate)]
        return [*command, "--seed_everything", str(self.seed), "--trainer.default_root_dir", str(self.folder)]


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        configs: The recipe's YAML files, in the order in which they are merged.
        options: Further options of every run.
        choices: The optimizers, in the order given.
        seeds: Each optimizer is trained once with each seed.
        sweep: Learning rates tried with the first seed; empty: each optimizer has the rate in its file.
        out: The comparison's folder.
        keep_models: Whether to keep the checkpoints and the model of a finished run.
    """

    configs: Sequence[ConfigFile]
    options: list[str]
    choices: Sequence[Choice]
    seeds: Sequence[int]
    sweep: Sequence[Rate]
    out: Path
    keep_models: bool = False

    @property
    def name(self) -> str:
        """The recipe's name."""
        return config_name(self.configs[0].path)

    def rates(self, choice: Choice) -> list[float | None]:
        """The learning rates to try with an optimizer, without duplicates, in ascending order.

        Raises:
            RecipeError: The sweep has a multiple, and the file has no learning rate to multiply.
        """
        if not self.sweep:
            return [choice.rate]
        if choice.rate is None and any(rate.relative for rate in self.sweep):
            raise RecipeError(
                f"--sweep-lr x...: {choice.file} has no lr to multiply; give --sweep-lr absolute values, "
                "such as 1e-4 3e-4, or add an lr to the file"
            )
        numbers = [
            float(f"{rate.number * (choice.rate or 0):.6g}") if rate.relative else rate.number for rate in self.sweep
        ]
        return [*sorted(set(numbers))]

    def first_trials(self, choice: Choice) -> list[Trial]:
        """The runs with the first seed, from which an optimizer's learning rate is chosen."""
        return [Trial(self, choice, rate, self.seeds[0]) for rate in self.rates(choice)]

    def further_trials(self, choice: Choice, rate: float | None) -> list[Trial]:
        """The runs with the other seeds, at the chosen learning rate."""
        return [Trial(self, choice, rate, seed) for seed in self.seeds[1:]]

    def size(self) -> int:
        """The number of runs."""
        return sum(len(self.rates(choice)) + len(self.seeds) - 1 for choice in self.choices)


def seed_of(configs: Sequence[ConfigFile]) -> int:
    """The recipe's seed: ``seed_everything`` of its last file that has one, else the default."""
    seeds = [config.settings.get("seed_everything") for config in configs]
    given = [seed for seed in seeds if isinstance(seed, int) and not isinstance(seed, bool)]
    return given[-1] if given else DEFAULT_SEED


def shown(command: Sequence[str]) -> str:
    """A command to copy and paste, with ``python`` for this interpreter."""
    return shlex.join(["python" if word == sys.executable else word for word in command])
