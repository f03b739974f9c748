"""``python -m recipes.reproduce runs/cls/version_0/report.json``: repeat a run, compare the results."""

import json
import os
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
from recipes.runs import slurm
from recipes.runs.folder import RunFolder, runs_root, versions

DESCRIPTION = """\
Repeats the run of a report, and compares weights and metrics: bit for bit, else value by value.

Prints first how this environment differs from the recorded one. Then trains from the settings in the report, in a new
folder of the same group of runs. No other file of the run is needed; a resumed run also needs the checkpoint that it
resumed from. The result is one of

  identical               the same weights and the same metrics.csv, byte for byte        exit status 0
  equal within TOLERANCE  no metric of any step differs by more                           exit status 0
  different               a metric differs by more: which, and from which step            exit status 1

A run repeats bit for bit on the same type of machine, with the same packages, threads and trainer.deterministic."""

AS_MANY_AS_THERE_ARE = ("auto", "-1")
"""Values of ``trainer.devices``."""
PARTS: dict[str, type] = {
    **dict.fromkeys(("fingerprint", "metrics", "history", "provenance"), dict),
    **dict.fromkeys(("history.losses", "history.evaluations"), list),
    **{f"provenance.{name}": dict for name in ("git", "image", "locks", "assets", "packages", "machine")},
    **dict.fromkeys(("recipe", "fingerprint.weights", "provenance.command", "provenance.config"), str),
}
"""The keys that a report needs for its run to be repeated, with their types."""


def main(args: Sequence[str]) -> int:
    """Reproduces a run.

    Args:
        args: The command line after ``reproduce``.

    Returns:
        0 if the results are identical or equal within the tolerance; 1 if they differ, or the run failed.

    Raises:
        RecipeError: The report cannot be read, or its run cannot be repeated.
    """
    parser = CommandParser("reproduce", description=DESCRIPTION)
    parser.add_argument("report", type=Path, help="report.json of a run, or its folder")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="largest relative difference of two metrics that count as equal (default: %(default)s)",
    )
    parser.add_argument("--runs", metavar="FOLDER", help="folder of all runs to write to (default: the recorded one)")
    parser.add_argument("--check", action="store_true", help="print how the environment differs, without training")
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
        raise RecipeError(f"{file} is not a valid report: its curves cannot be read ({error!r})") from None
    found = list(differences(recorded["provenance"]))
    for difference in found:
        print(f"differs: {difference}")
    if not found:
        print("The environment is the recorded one.")
    if options.check:
        return 0
    _refuse_several_machines(file, recorded)
    _refuse_missing_checkpoint(file, recorded)
    _refuse_fewer_devices(file, recorded["provenance"])
    again = run_again(recorded, options.runs)
    if again is None:
        return 1

    verdict = compare(file.parent, recorded, again, read_report(again / "report.json"), options.tolerance)
    print(f"{verdict.message}\n  recorded: {file}\n  again:    {again / 'report.json'}")
    return 0 if verdict.same else 1


def read_report(file: Path) -> dict[str, Any]:
    """Reads a report whose run can be repeated.

    Raises:
        RecipeError: The file is missing, cannot be read, or lacks a key that is needed.
    """
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecipeError(f"{file} cannot be read as the report.json of a run: {error}") from None
    if not isinstance(report, dict) or "provenance" not in report or "fingerprint" not in report:
        raise RecipeError(f"{file} has no 'provenance' with the settings of its run, and cannot be repeated")
    wrong = [key for key, kind in PARTS.items() if not isinstance(_at(report, key), kind)]
    if wrong:
        raise RecipeError(f"{file} is not a valid report: missing or of another type: {', '.join(wrong)}")
    if Path(report["recipe"]).name != report["recipe"] or report["recipe"] in ("", ".."):
        raise RecipeError(f"{file} is not a valid report: recipe is '{report['recipe']}', which is no name of a recipe")
    return report


def _refuse_several_machines(file: Path, report: dict[str, Any]) -> None:
    """Raises a RecipeError if the run of a report used more machines than this one."""
    machines = (yaml.safe_load(report["provenance"]["config"]).get("trainer") or {}).get("num_nodes") or 1
    if machines != 1:
        raise RecipeError(
            f"{file}: the run used {machines} machines (trainer.num_nodes), and reproduce starts processes on this one "
            "only: start fit on all of them with the config.yaml of the run, and compare the fingerprints"
        )


def _refuse_missing_checkpoint(file: Path, report: dict[str, Any]) -> None:
    """Raises a RecipeError if the run of a report resumed from a checkpoint that is not there."""
    path = yaml.safe_load(report["provenance"]["config"]).get("ckpt_path")
    if not path or Path(path).exists() or "://" in path or path.startswith("registry"):
        return  # Lightning finds URLs and registries without a file
    raise RecipeError(
        f"{file}: ckpt_path is {path}, from which the run resumed, and there is no such file: bring the checkpoint "
        "there (a relative path begins in the current folder), or reproduce the first run, which did not resume"
    )


def _refuse_fewer_devices(file: Path, provenance: dict[str, Any]) -> None:
    """Raises a RecipeError if the run had more devices than this machine: its steps would have other rows."""
    from recipes.reproduce.environment import missing_devices

    here = missing_devices(provenance)
    if here is not None:
        raise RecipeError(
            f"{file}: the run had {provenance['processes']} devices ({provenance['machine']['accelerator']}), and this "
            f"machine has {here}: repeat it on a machine with as many, or start fit with the config.yaml of the run, "
            "fewer trainer.devices and a larger data.batch_size, and compare the metrics"
        )


def _at(report: Any, key: str) -> Any:
    for part in key.split("."):
        report = report.get(part) if isinstance(report, dict) else None
    return report


def run_again(recorded: dict[str, Any], runs: str | None) -> Path | None:
    """Trains from a report's settings in a process of its own, in a new folder of the same group of runs.

    Returns:
        The new run's folder; None if it failed, with its error message printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The name of the group of runs is that of the folder above version_0, as for a run's own config.yaml.
        config = Path(folder, recorded["recipe"], "version_0", "config.yaml")
        config.parent.mkdir(parents=True)
        config.write_text(recorded["provenance"]["config"], encoding="utf-8")
        command = [sys.executable, "-m", "recipes.fit", "--config", str(config)]
        if runs is not None:
            command.append(f"--trainer.default_root_dir={runs}")
        settings = yaml.safe_load(recorded["provenance"]["config"])
        trainer, processes = settings.get("trainer") or {}, recorded["provenance"].get("processes") or 1
        if processes > 1 and str(trainer.get("devices", "auto")) in AS_MANY_AS_THERE_ARE:
            command.append(f"--trainer.devices={processes}")
        print(f"Running: python {shlex.join(command[1:])}", flush=True)
        status = _run(command)
        if status:
            print(f"the run ended with exit status {status}: there is nothing to compare", file=sys.stderr)
            return None
        root = runs_root(runs or trainer.get("default_root_dir"))
        # Other runs may have started meanwhile: ours has this configuration in its command.
        for version in reversed(versions(root, recorded["recipe"])):
            run = RunFolder(root, recorded["recipe"], version).path
            try:
                if str(config) in read_report(run / "report.json")["provenance"]["command"]:
                    return run
            except RecipeError:
                continue  # of another run that has not finished, or of an older version
        raise RecipeError(f"the new run has written no report in {root / recorded['recipe']}")


def _run(command: list[str]) -> int:
    """Runs a command and returns its exit status. On Ctrl-C, waits until it has saved its checkpoint."""
    process, interrupt = subprocess.Popen(command, env={**os.environ, **slurm.for_children()}), None
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt as pressed:
            interrupt = pressed
    if interrupt is not None:
        raise interrupt
    return status
