"""``python -m recipes.compare --config cls.yaml --optimizers adafactor adamw``: one recipe, several optimizers."""

import math
import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes.cli.command_line import CommandLine
from recipes.cli.commands import CommandParser
from recipes.cli.config_files import ConfigFile
from recipes.cli.optimizer_files import choose, shipped
from recipes.compare.hopeless import MARGIN
from recipes.compare.lock import only_one
from recipes.compare.plan import Budget, Plan, seed_of
from recipes.compare.progress import Screen
from recipes.compare.refused import refuse_in_files, refuse_options, refuse_other_length
from recipes.compare.results import comparison
from recipes.compare.runs import INVALID_SETTINGS, Outcome
from recipes.compare.schedule import Schedule
from recipes.compare.sweep import DEFAULT_SWEEP, Rate
from recipes.compare.tables import print_table
from recipes.compare.trials import train
from recipes.compare.writing import write
from recipes.messages import RecipeError
from recipes.runs.folder import config_name, runs_root

DESCRIPTION = """\
Trains the same recipe with several optimizers and compares memory, time and quality.

The runs are separate processes with the same order of data and, for the same seed, the same initial weights. Short
timing runs measure time and memory; a sweep chooses each optimizer's learning rate by the validation metric; further
seeds show the spread; a paired test says which differences can be concluded. Writes comparison.json, comparison.md and
comparison.png, and a folder for each run with its log.

It can be interrupted: the same command keeps the finished runs and runs the rest. A run that fails is a row with the
reason, and the other runs continue."""
EPILOG = """\
Other options of the form --trainer.KEY, --model.KEY, --data.KEY, --checkpoint.KEY and --threads apply to every run,
such as --trainer.max_steps 100.

examples:
  python -m recipes.compare --config cls.yaml --optimizers adafactor adamw adamw_8bit
  python -m recipes.compare --config cls.yaml --optimizers adafactor adamw --seeds 1 2 3 --sweep-lr
  python -m recipes.compare --config my.yaml --optimizers adafactor my/lion.yaml --sweep-lr 1e-4 3e-4 1e-3

exit status: 0 if at least one run finished, 1 if none did, 2 for an error on the command line or in a file,
130 after Ctrl-C"""
WIDEN = 4
TIMING_ROUNDS = 3
PASSED_ON = ("trainer", "model", "data", "checkpoint", "threads")


def main(args: Sequence[str]) -> int:
    """Compares optimizers.

    Args:
        args: The command line after ``compare``.

    Returns:
        0 if at least one run finished, else 1.

    Raises:
        RecipeError: The command line or a file is invalid, or no run finished because of errors in the settings.
        KeyboardInterrupt: The user interrupted it; the message says how to continue.
    """
    plan = plan_of(args)
    with only_one(plan.out):
        return _compare(plan, args)


def _compare(plan: Plan, args: Sequence[str]) -> int:
    command = shlex.join(["python", "-m", "recipes.compare", *args])
    schedule = Schedule(plan)
    with Screen(plan, schedule.left()) as screen:
        try:
            train(plan, schedule, screen)
        except KeyboardInterrupt:
            outcomes = schedule.outcomes
            done = sum(outcome.report is not None for outcome in outcomes)
            raise KeyboardInterrupt(
                f"{done} of {len(outcomes) + schedule.left()} runs are finished and kept in {plan.out}; "
                f"to continue, repeat the command: {command}"
            ) from None
    return _conclude(plan, schedule.outcomes, schedule.rates(), command)


def parser() -> CommandParser:
    """The command line."""
    parser = CommandParser("compare", description=DESCRIPTION, epilog=EPILOG)
    parser.add_config_argument()
    parser.add_argument(
        "--optimizers",
        nargs="+",
        required=True,
        metavar="NAME",
        help=f"files of configs/optimizer/ without .yaml ({', '.join(shipped())}), or paths of your own such files",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        metavar="SEED",
        help="integers; each optimizer is trained once with each (default: the recipe's seed_everything, or 42)",
    )
    parser.add_argument(
        "--sweep-lr",
        nargs="*",
        metavar="LR",
        help="learning rates to try for each optimizer with the first seed: numbers (1e-4), or multiples of the rate "
        "in the optimizer's file (x3); no value means x0.3 x1 x3. The one with the best validation metric is used for "
        "the other seeds. Without --sweep-lr each optimizer keeps the rate in its file, and the comparison says so",
    )
    parser.add_argument(
        "--widen",
        metavar="N",
        help="with --sweep-lr: rates that may be added for an optimizer while its best one is the lowest or highest "
        f"(default: {WIDEN}; 0: none)",
    )
    parser.add_argument(
        "--keep-hopeless",
        action="store_true",
        help="with --sweep-lr: train runs to their end that lie far behind the best one of their optimizer; by default "
        f"a run is stopped at half of its steps if it is more than {100 * MARGIN:.0f} %% behind what the best one had "
        "at a quarter",
    )
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--budget-steps", metavar="N", help="optimizer steps of each run, instead of the recipe's")
    budget.add_argument(
        "--budget-seconds",
        metavar="S",
        help="seconds of training of each run: as many steps as the optimizer takes in them, by its timing runs",
    )
    parser.add_argument(
        "--timing-rounds",
        metavar="N",
        help="runs of 20 steps that measure time and peak memory of each optimizer, one at a time, all optimizers in "
        f"turn (default: {TIMING_ROUNDS}; 0: time and memory are those of the training runs)",
    )
    parser.add_argument(
        "--jobs",
        metavar="N",
        help="trainings at a time (default: 1). Small models leave much of a GPU idle, and its memory must hold N of "
        "them; on CPUs also give each its share of the cores, such as --jobs 2 --threads 1. Timing runs are always "
        "alone",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder of the comparison (default: compare-NAME in the folder of all runs)"
    )
    parser.add_argument(
        "--keep-models",
        action="store_true",
        help="keep model/ and checkpoints/ of each run; by default they are deleted when the run has finished, to "
        "save disk space",
    )
    return parser


def plan_of(args: Sequence[str]) -> Plan:
    """The plan that a command line describes.

    Raises:
        RecipeError: The command line is invalid, or a file is missing.
    """
    given, others = parser().parse_known_args(list(args))
    configs: list[ConfigFile] = given.config
    refuse_in_files(configs)
    choices = [choose(name) for name in given.optimizers]
    _refuse_duplicates("--optimizers", [choice.name for choice in choices], "name each optimizer once")
    seeds = [_seed(seed) for seed in given.seeds] if given.seeds else [seed_of(configs)]
    _refuse_duplicates("--seeds", seeds, "give each seed once")
    widen = _whole_number("--widen", given.widen, WIDEN)
    rounds = _whole_number("--timing-rounds", given.timing_rounds, TIMING_ROUNDS)
    sweep = [] if given.sweep_lr is None else [Rate.parse(text) for text in given.sweep_lr] or list(DEFAULT_SWEEP)
    if not sweep and (given.widen is not None or given.keep_hopeless):
        raise RecipeError(f"{'--keep-hopeless' if given.keep_hopeless else '--widen'} has no effect without --sweep-lr")
    plan = Plan(
        configs,
        _passed_on(others),
        choices,
        seeds,
        sweep,
        _folder(given, configs),
        given.keep_models,
        _budget(given, others, rounds),
        widen if sweep else 0,
        rounds,
        bool(sweep) and not given.keep_hopeless,
        _whole_number("--jobs", given.jobs, 1, least=1),
    )
    for choice in choices:
        plan.rates(choice)
        if choice.missing_module:
            # Not with tell(), which imports Lightning.
            missing = f"{choice.class_path} needs {choice.missing_module}, which is not installed"
            print(f"note: {choice.name} will fail: {missing}", file=sys.stderr)
    return plan


def _budget(given: Namespace, others: list[str], timing_rounds: int) -> Budget | None:
    """The budget of each run."""
    if given.budget_steps is None and given.budget_seconds is None:
        return None
    refuse_other_length(others, given.config)
    if given.budget_steps is not None:
        return Budget(_whole_number("--budget-steps", given.budget_steps, 0, least=1), "steps")
    try:
        seconds = float(given.budget_seconds)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise RecipeError(f"--budget-seconds {given.budget_seconds}: expected a number above 0, such as 600")
    if not timing_rounds:
        raise RecipeError("--budget-seconds needs timing runs, which --timing-rounds 0 leaves out: use at least 1")
    return Budget(seconds, "seconds")


def _whole_number(option: str, text: str | None, default: int, least: int = 0) -> int:
    if text is None:
        return default
    if not text.isdecimal() or int(text) < least:
        raise RecipeError(f"{option} {text}: expected a whole number of at least {least}")
    return int(text)


def _folder(given: Namespace, configs: Sequence[ConfigFile]) -> Path:
    if given.out:
        folder = Path(given.out).expanduser()
        if folder.exists() and not folder.is_dir():
            raise RecipeError(f"--out {given.out} is a file; give a folder")
        return folder
    return runs_root() / f"compare-{config_name(configs[0].path)}"


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed < 2**32:
        raise RecipeError(f"--seeds {text}: expected integers from 0 to {2**32 - 1}, such as --seeds 1 2 3")
    return seed


def _refuse_duplicates(option: str, values: Sequence[Any], remedy: str) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise RecipeError(f"{option}: {value} is given twice; {remedy}")


def _passed_on(others: list[str]) -> list[str]:
    """The options that apply to every run, checked as far as is possible without importing torch."""
    own = ("sweep-lr", "widen", "keep-hopeless", "budget-steps", "budget-seconds", "timing-rounds", "jobs", "out")
    known = [f"--{name}" for name in ("config", "optimizers", "seeds", *own, "keep-models")]
    refuse_options(others)
    for option in CommandLine.parse(others).options:
        if option.key.partition(".")[0] not in PASSED_ON or not option.name.startswith("--"):
            near = get_close_matches(option.name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}, or a setting of the recipe"
            raise RecipeError(f"unknown option '{option.name}'; {hint}")
        if option.value is None:
            raise RecipeError(f"{option.name} has no value")
    return others


def _conclude(plan: Plan, outcomes: Sequence[Outcome], rates: dict[str, float | None], command: str) -> int:
    """Writes and prints the comparison; returns the exit status."""
    if not any(outcome.report for outcome in outcomes if outcome.trial.timing is None):
        failed = [outcome for outcome in outcomes if outcome.report is None]
        reasons = dict.fromkeys(outcome.reason for outcome in failed)
        message = f"no run finished: {'; '.join(reasons)} (logs in {plan.out})"
        if all(outcome.status == INVALID_SETTINGS for outcome in failed):
            raise RecipeError(message)
        print(f"error: {message}", file=sys.stderr)
        return 1
    result = comparison(plan, outcomes, rates, command)
    write(result, outcomes, plan.out)
    console = Console()
    print_table(result, console)
    place = os.path.join(plan.out, "comparison.{json,md,png}")
    console.print(f"The comparison is in {place}", soft_wrap=True, highlight=False, markup=False)
    if plan.keep_models:
        for outcome in outcomes:
            if outcome.kept and outcome.report is not None and not (outcome.folder / "model").is_dir():
                folder = outcome.trial.folder
                print(
                    f"{folder} has no model: it was trained without --keep-models; delete the folder to train it again"
                )
    return 0
