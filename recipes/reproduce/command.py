"""``python -m recipes.reproduce runs/cls/version_0/report.json``: run it again, and say whether the same came out."""

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recipes.cli.commands import CommandParser
from recipes.messages import RecipeError
from recipes.runs.folder import RunFolder, runs_root, versions

DESCRIPTION = """\
Runs what a report has recorded once more, and compares: weights and metrics bit for bit, else number by number.

It says first in what this environment differs from the recorded one, then trains from the settings in the report
(they need no file beside it), into a new folder of the same group of runs, and ends with one of

  identical               the same weights and the same metrics.csv, byte for byte        exit status 0
  equal within TOLERANCE  every metric of every step differs by no more                   exit status 0
  different               some metric differs by more: which, and from which step on      exit status 1

A run repeats bit for bit on the same type of machine, with the same packages, threads and trainer.deterministic."""


PARTS: dict[str, type] = {
    **dict.fromkeys(("fingerprint", "metrics", "history", "provenance"), dict),
    **dict.fromkeys(("history.losses", "history.evaluations"), list),
    **{f"provenance.{name}": dict for name in ("git", "image", "locks", "assets", "packages", "machine")},
    **dict.fromkeys(("recipe", "fingerprint.weights", "provenance.command", "provenance.config"), str),
}
"""What a report has to hold for its run to be repeated and compared."""


def main(args: Sequence[str]) -> int:
    """Reproduces a run.

    Args:
        args: The command line after ``reproduce``.

    Returns:
        0 if the same came out, exactly or within the tolerance; 1 if something else did, or the run failed.

    Raises:
        RecipeError: The report cannot be read, or is not of a kind that can be reproduced.
    """
    parser = CommandParser("reproduce", description=DESCRIPTION)
    parser.add_argument("report", type=Path, help="report.json of a run, or the folder that it lies in")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="largest relative difference between two metrics that counts as equal (default: %(default)s)",
    )
    parser.add_argument("--runs", metavar="FOLDER", help="folder of all runs to write to (default: as recorded)")
    parser.add_argument("--check", action="store_true", help="say what differs in the environment, and train nothing")
    options = parser.parse_args(args)
    if not options.tolerance >= 0:
        raise RecipeError(f"--tolerance is {options.tolerance}: give 0 or more")
    file = options.report / "report.json" if options.report.is_dir() else options.report
    recorded = read_report(file)

    from recipes.reproduce.environment import differences
    from recipes.reproduce.verdict import compare, curves

    try:
        curves(recorded)
    except (TypeError, ValueError, KeyError) as error:
        raise RecipeError(f"{file} is not as a run has written it: its curves cannot be read ({error!r})") from None
    found = list(differences(recorded["provenance"]))
    for difference in found:
        print(f"differs: {difference}")
    if not found:
        print("The environment is the recorded one.")
    if options.check:
        return 0
    again = run_again(recorded, options.runs)
    if again is None:
        return 1

    verdict = compare(file.parent, recorded, again, read_report(again / "report.json"), options.tolerance)
    print(f"{verdict.words}\n  recorded: {file}\n  again:    {again / 'report.json'}")
    return 0 if verdict.same else 1


def read_report(file: Path) -> dict[str, Any]:
    """A report with what is needed to run it again.

    Raises:
        RecipeError: There is none, it cannot be read, or it lacks what a run is repeated from.
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecipeError(f"{file} cannot be read as the report.json of a run: {error}") from None
    if not isinstance(report, dict) or "provenance" not in report or "fingerprint" not in report:
        raise RecipeError(f"{file} holds no 'provenance' with the settings of its run: only such a run can be repeated")
    wrong = [key for key, kind in PARTS.items() if not isinstance(_at(report, key), kind)]
    if wrong:
        raise RecipeError(
            f"{file} is not as a run has written it: {', '.join(wrong)} not there, or not as they have to be"
        )
    if Path(report["recipe"]).name != report["recipe"] or report["recipe"] in ("", ".."):
        raise RecipeError(f"{file} is not as a run has written it: recipe is '{report['recipe']}', no name of a recipe")
    return report


def _at(report: Any, key: str) -> Any:
    for part in key.split("."):
        report = report.get(part) if isinstance(report, dict) else None
    return report


def run_again(recorded: dict[str, Any], runs: str | None) -> Path | None:
    """Trains from a report's settings in a process of its own, into a folder of the group that the run was in.

    Returns:
        The new run's folder; None if it failed, having said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        # A config.yaml in a folder of this name belongs to the group of runs that is named above it.
        config = Path(folder, recorded["recipe"], "version_0", "config.yaml")
        config.parent.mkdir(parents=True)
        config.write_text(recorded["provenance"]["config"], encoding="utf-8")
        command = [sys.executable, "-m", "recipes.fit", "--config", str(config)]
        if runs is not None:
            command.append(f"--trainer.default_root_dir={runs}")
        print(f"Running again: python {shlex.join(command[1:])}", flush=True)
        status = _run(command)
        if status:
            print(f"the run ended with exit status {status}: nothing to compare", file=sys.stderr)
            return None
        settings = yaml.safe_load(recorded["provenance"]["config"])
        root = runs_root(runs or (settings.get("trainer") or {}).get("default_root_dir"))
        # Other runs may have been started meanwhile: ours is the one that names this configuration.
        for version in reversed(versions(root, recorded["recipe"])):
            run = RunFolder(root, recorded["recipe"], version).path
            try:
                if str(config) in read_report(run / "report.json")["provenance"]["command"]:
                    return run
            except RecipeError:
                continue  # another's, which has not written it yet or is of an older version
        raise RecipeError(f"the new run has left no report in {root / recorded['recipe']}")


def _run(command: list[str]) -> int:
    """The exit status of a command, which on Ctrl-C saves its checkpoint in its own time."""
    process, interrupt = subprocess.Popen(command), None
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt as pressed:
            interrupt = pressed
    if interrupt is not None:
        raise interrupt
    return status
