"""``python -m recipes.compare --config cls.yaml --optimizers adafactor adamw``: one recipe, several optimizers."""

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from rich.console import Console

from recipes.cli.command_line import CommandLine
from recipes.cli.commands import CommandParser
from recipes.cli.config_files import ConfigFile
from recipes.cli.optimizer_files import choose, shipped
from recipes.compare.lock import only_one
from recipes.compare.plan import DEFAULT_SWEEP, Plan, Rate, Trial, seed_of
from recipes.compare.progress import Screen
from recipes.compare.results import best_of, comparison
from recipes.compare.runs import INVALID_SETTINGS, Outcome, finished, run
from recipes.compare.tables import print_table
from recipes.compare.writing import write
from recipes.messages import RecipeError
from recipes.runs.folder import config_name, runs_root

DESCRIPTION = """\
Trains the same recipe with several optimizers and compares memory, time and quality.

The runs are separate processes, one after the other, with the same order of data and, for the same seed, the same
initial weights. Writes comparison.json, comparison.md and comparison.png, and a folder for each run with its log.

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
PASSED_ON = ("trainer", "model", "data", "checkpoint", "threads")
REFUSED = {
    "seed_everything": "use --seeds",
    "ckpt_path": "each run starts from the beginning",
    "trainer.fast_dev_run": "it writes no report to compare; for a short trial add --config trainer/quick.yaml",
    "trainer.default_root_dir": "use --out",
    "model.optimizer": "use --optimizers, and --sweep-lr for their learning rates",
    "model.init_args.optimizer": "use --optimizers, and --sweep-lr for their learning rates",
}


def main(args: Sequence[str]) -> int:
    """Compares optimizers.

    Args:
        args: The command line after ``compare``.

    Returns:
        0 if at least one run finished, 1 if none did, 2 if none did because of errors in the settings.

    Raises:
        RecipeError: The command line or a file is invalid, or no run finished because of errors in the settings.
        KeyboardInterrupt: The user interrupted it; the message says how to continue.
    """
    plan = plan_of(args)
    with only_one(plan.out):
        return _compare(plan, args)


def _compare(plan: Plan, args: Sequence[str]) -> int:
    command = shlex.join(["python", "-m", "recipes.compare", *args])
    outcomes: list[Outcome] = []
    rates: dict[str, float | None] = {}
    with Screen(plan) as screen:
        try:
            for outcome in _train(plan, rates, screen):
                outcomes.append(outcome)
        except KeyboardInterrupt:
            done = sum(outcome.report is not None for outcome in outcomes)
            raise KeyboardInterrupt(
                f"{done} of {plan.size()} runs are finished and kept in {plan.out}; "
                f"to continue, repeat the command: {command}"
            ) from None
    return _conclude(plan, outcomes, rates, command)


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
    choices = [choose(name) for name in given.optimizers]
    _refuse_duplicates("--optimizers", [choice.name for choice in choices], "name each optimizer once")
    seeds = [_seed(seed) for seed in given.seeds] if given.seeds else [seed_of(configs)]
    _refuse_duplicates("--seeds", seeds, "give each seed once")
    sweep = [] if given.sweep_lr is None else [Rate.parse(text) for text in given.sweep_lr] or list(DEFAULT_SWEEP)
    plan = Plan(configs, _passed_on(others), choices, seeds, sweep, _folder(given, configs), given.keep_models)
    for choice in choices:
        plan.rates(choice)
        if choice.missing_module:
            # Not with tell(), which imports Lightning.
            missing = f"{choice.class_path} needs {choice.missing_module}, which is not installed"
            print(f"note: {choice.name} will fail: {missing}", file=sys.stderr)
    return plan


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
    known = ("--config", "--optimizers", "--seeds", "--sweep-lr", "--out", "--keep-models")
    for option in CommandLine.parse(others).options:
        for refused, remedy in REFUSED.items():
            if f"{option.key}.".startswith(f"{refused}."):
                raise RecipeError(f"{option.name} is not supported by compare: {remedy}")
        if option.key.partition(".")[0] not in PASSED_ON or not option.name.startswith("--"):
            near = get_close_matches(option.name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}, or a setting of the recipe"
            raise RecipeError(f"unknown option '{option.name}'; {hint}")
        if option.value is None:
            raise RecipeError(f"{option.name} has no value")
    return others


def _train(plan: Plan, rates: dict[str, float | None], screen: Screen) -> Iterable[Outcome]:
    """Runs the trials that are not finished. Stores each optimizer's learning rate in ``rates`` once it is chosen."""
    for choice in plan.choices:
        invalid = False
        tried: list[Outcome] = []
        for trial in plan.first_trials(choice):
            tried.append(_outcome(trial, screen))
            yield tried[-1]
            invalid = tried[-1].status == INVALID_SETTINGS
            if invalid:
                break
        screen.expect_fewer(len(plan.rates(choice)) - len(tried))
        if not plan.sweep and not invalid:
            rates[choice.name] = choice.rate
        elif plan.sweep and any(outcome.report for outcome in tried):
            best = best_of(tried)
            if best is None:
                raise RecipeError(
                    "--sweep-lr: the reports hold no validation metric to choose a learning rate by: give the recipe a "
                    "validation split, or omit --sweep-lr"
                )
            rates[choice.name] = best.trial.rate
        if choice.name not in rates:
            screen.expect_fewer(len(plan.seeds) - 1)
    for place in range(len(plan.seeds) - 1):
        for choice in plan.choices:
            if choice.name in rates:
                yield _outcome(plan.further_trials(choice, rates[choice.name])[place], screen)


def _outcome(trial: Trial, screen: Screen) -> Outcome:
    outcome = finished(trial)
    if outcome is None:
        screen.start(trial)
        outcome = run(trial, screen.tick)
    screen.end(outcome)
    return outcome


def _conclude(plan: Plan, outcomes: Sequence[Outcome], rates: dict[str, float | None], command: str) -> int:
    """Writes and prints the comparison; returns the exit status."""
    if not any(outcome.report for outcome in outcomes):
        reasons = dict.fromkeys(outcome.reason for outcome in outcomes)
        message = f"no run finished: {'; '.join(reasons)} (logs in {plan.out})"
        if all(outcome.status == INVALID_SETTINGS for outcome in outcomes):
            raise RecipeError(message)
        print(f"error: {message}", file=sys.stderr)
        return 1
    result = comparison(plan, outcomes, rates, command)
    write(result, outcomes, plan.out)
    console = Console()
    print_table(result, console)
    place = os.path.join(plan.out, "comparison.{json,md,png}")
    console.print(f"The comparison is in {place}", soft_wrap=True, highlight=False)
    if plan.keep_models:
        for outcome in outcomes:
            if outcome.kept and not (outcome.folder / "model").is_dir():
                folder = outcome.trial.folder
                print(
                    f"{folder} has no model: it was trained without --keep-models; delete the folder to train it again"
                )
    return 0
