"""The runs of a comparison: optimizers, learning rates and seeds, and the command of each run."""

import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from recipes.cli.config_files import ConfigFile
from recipes.cli.optimizer_files import Choice
from recipes.compare.sweep import Rate, from_the_middle
from recipes.messages import RecipeError
from recipes.runs.folder import config_name

RATE_OPTION = "--model.init_args.optimizer.init_args.lr"
DEFAULT_SEED = 42
FIT = [sys.executable, "-m", "recipes.fit"]
"""The program that trains. Each run is a separate process, so that peak memory is its own."""
TIMING_OPTIONS = [
    *("--trainer.max_steps", "20", "--trainer.max_epochs", "-1", "--trainer.log_every_n_steps", "4"),
    *("--trainer.limit_val_batches", "0", "--trainer.limit_test_batches", "0"),
]
"""The training steps that are timed; the first four of them do not count."""
BUDGET_OPTIONS = [
    "--trainer.max_epochs",
    "-1",
    "--trainer.callbacks+",
    "recipes.training.last_validation.ValidateLastStep",
]
"""Those of a training that ends after a number of steps."""


@dataclass(frozen=True)
class Budget:
    """What each training may use: a number of optimizer steps, or of seconds.

    Attributes:
        number: How many.
        unit: ``steps`` or ``seconds``. Seconds become the number of steps that an optimizer takes in them, by its time
            per step in the timing runs, so that learning-rate schedules end with the budget.
    """

    number: float
    unit: Literal["steps", "seconds"]

    def steps(self, seconds_per_step: float | None) -> int | None:
        """The number of steps; None if it depends on the time of a step, and that is unknown."""
        if self.unit == "steps":
            return int(self.number)
        return None if not seconds_per_step else max(1, int(self.number / seconds_per_step))


@dataclass(frozen=True)
class Trial:
    """One run: an optimizer, its learning rate (None: the optimizer's own) and a seed.

    Attributes:
        plan: The comparison that it belongs to.
        steps: Its number of steps, if the comparison has a budget; None: as the recipe has it.
        timing: The number of a timing run, from 1: a few steps without validation, of which only time and memory count.
            None for a training.
    """

    plan: "Plan"
    choice: Choice
    rate: float | None
    seed: int
    steps: int | None = None
    timing: int | None = None

    @property
    def title(self) -> str:
        """Its title on the screen."""
        if self.timing is not None:
            return f"{self.choice.name}, timing {self.timing} of {self.plan.timing_rounds}"
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
            **({} if self.steps is None else {"steps": self.steps, "ends": BUDGET_OPTIONS}),
            **({} if self.timing is None else {"timing": self.timing, "with": TIMING_OPTIONS}),
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
        name = f"lr-{rate}_seed-{self.seed}" if self.timing is None else f"timing-{self.timing}"
        return self.plan.out / self.choice.name / f"{name}_{self.digest}"

    @property
    def command(self) -> list[str]:
        """The command that trains it."""
        command = list(FIT)
        for config in (*self.plan.configs, self.choice.config):
            command += ["--config", str(config.path)]
        command += self.plan.options
        if self.steps is not None:
            command += ["--trainer.max_steps", str(self.steps), *BUDGET_OPTIONS]
        if self.timing is not None:
            command += TIMING_OPTIONS
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
        budget: Steps or seconds of each training; None: as the recipe has it.
        widen: Number of rates that a sweep may add for each optimizer while its best rate is the lowest or highest.
        timing_rounds: Number of timing runs of each optimizer.
        stop_hopeless: Whether to stop runs of a sweep that are far behind its best one.
        jobs: Number of trainings at a time. Timing runs are always alone.
    """

    configs: Sequence[ConfigFile]
    options: list[str]
    choices: Sequence[Choice]
    seeds: Sequence[int]
    sweep: Sequence[Rate]
    out: Path
    keep_models: bool = False
    budget: Budget | None = None
    widen: int = 0
    timing_rounds: int = 0
    stop_hopeless: bool = False
    jobs: int = 1

    @property
    def name(self) -> str:
        """The recipe's name."""
        return config_name(self.configs[0].path)

    def rates(self, choice: Choice) -> list[float | None]:
        """The learning rates to try with an optimizer, without duplicates, in the order in which they are tried.

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
        return [*from_the_middle([rate.of(choice.rate) for rate in self.sweep])]

    def timing_trials(self) -> list[Trial]:
        """The timing runs: all optimizers in turn, and again, so that a slow hour of the machine slows all of them."""
        return [
            Trial(self, choice, choice.rate, self.seeds[0], timing=number + 1)
            for number in range(self.timing_rounds)
            for choice in self.choices
        ]

    def first_trials(self, choice: Choice, steps: int | None = None) -> list[Trial]:
        """The runs with the first seed, from which an optimizer's learning rate is chosen."""
        return [Trial(self, choice, rate, self.seeds[0], steps) for rate in self.rates(choice)]

    def further_trials(self, choice: Choice, rate: float | None, steps: int | None = None) -> list[Trial]:
        """The runs with the other seeds, at the chosen learning rate."""
        return [Trial(self, choice, rate, seed, steps) for seed in self.seeds[1:]]


def seed_of(configs: Sequence[ConfigFile]) -> int:
    """The recipe's seed: ``seed_everything`` of its last file that has one, else the default."""
    seeds = [config.settings.get("seed_everything") for config in configs]
    given = [seed for seed in seeds if isinstance(seed, int) and not isinstance(seed, bool)]
    return given[-1] if given else DEFAULT_SEED


def shown(command: Sequence[str]) -> str:
    """A command to copy and paste, with ``python`` for this interpreter."""
    return shlex.join(["python" if word == sys.executable else word for word in command])
