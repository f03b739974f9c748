"""The file that ``--ckpt_path`` means: a file, the folder of a run, or ``best`` or ``last`` of the newest run."""

from collections.abc import Mapping
from pathlib import Path

from recipes.messages import RecipeError, tell
from recipes.runs.folder import RunFolder, settings_of, versions
from recipes.training import whole_files
from recipes.training.checkpoints import LAST, load

SHARDED = ("meta.pt", ".metadata")


def resolve(ckpt_path: str, command: str, root: Path, name: str) -> str:
    """The file that ``--ckpt_path`` means.

    Args:
        ckpt_path: A file; the folder of a run; ``best`` or ``last`` of the newest run of this config name.
        command: From a run's folder, ``fit`` loads the last checkpoint, every other command the best.
        root: Folder of all runs.
        name: Config name.

    Raises:
        RecipeError: There is no such checkpoint.
    """
    if ckpt_path in ("best", "last"):
        without: list[Path] = []
        for version in reversed(versions(root, name)):
            run = RunFolder(root, name, version).path
            found = _newest_valid(run, ckpt_path)
            if found:
                if without and command == "fit":
                    tell(_resumes_an_older_run(ckpt_path, without[0], run, found))
                return str(found)
            if _is_of_fit(run):
                without.append(run)
        raise RecipeError(
            f"--ckpt_path {ckpt_path}: no run in {root / name} has a readable checkpoint; `fit` first or name a file"
        )
    path = Path(ckpt_path).expanduser()
    if path.is_dir() and (path / "checkpoints").is_dir():
        found = _newest_valid(path, "last" if command == "fit" else "best")
        if not found:
            raise RecipeError(f"--ckpt_path {ckpt_path}: that run has no readable checkpoint in its folder checkpoints")
        return str(found)
    if path.is_dir() and not any((path / name).exists() for name in SHARDED):
        raise RecipeError(f"--ckpt_path {ckpt_path}: a folder, and neither that of a run nor a sharded checkpoint")
    if not path.exists() and "://" not in ckpt_path and ckpt_path not in ("hpc", "registry"):
        if ckpt_path.startswith("registry:"):
            return ckpt_path
        raise RecipeError(
            f"--ckpt_path {ckpt_path}: no such file; expected a .ckpt file, the folder of a run, 'best' or 'last'"
        )
    return str(path) if path.exists() else ckpt_path


def _newest_valid(run: Path, which: str) -> Path | None:
    """A run's best or last checkpoint, or the newest valid one where that one is corrupted."""
    folder = run / "checkpoints"
    wanted = _in_run(run, which)
    if wanted is None:
        return None
    others = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    corrupted: list[Path] = []
    for path in dict.fromkeys([wanted, *others]):
        if not path.is_file() or not _is_valid(path):
            corrupted.append(path)
            continue
        if corrupted:
            names = " and ".join(file.name for file in corrupted)
            tell(f"--ckpt_path: {names} in {folder} cannot be read, {path.name} is used instead")
        return path
    tell(f"--ckpt_path: every checkpoint in {folder} is corrupted")
    return None


def _is_valid(path: Path) -> bool:
    if whole_files.sum_of(path).is_file():
        return whole_files.is_whole(path)
    try:
        load(path)
    except RecipeError:
        return False
    return True


def _is_of_fit(run: Path) -> bool:
    """Whether a run is of ``fit``: the settings of the other commands have keys of their own."""
    settings = settings_of(run)
    return bool(settings) and not settings.keys() & {"verbose", "return_predictions"}


def _resumes_an_older_run(word: str, without: Path, run: Path, found: Path) -> str:
    """Names both runs, and up to three settings in which they differ."""
    mine, theirs = settings_of(without), settings_of(run)
    differing = [
        f"{key} {theirs.get(key)!r} instead of {mine.get(key)!r}"
        for key in sorted(mine.keys() | theirs.keys())
        if key.rpartition(".")[2] != "ckpt_path" and mine.get(key) != theirs.get(key)
    ]
    more = ["..."] if len(differing) > 3 else []
    settings = f", which had {', '.join([*differing[:3], *more])}" if differing else ""
    return (
        f"{without}, the newest run, has no checkpoint to resume from: --ckpt_path {word} resumes from {found}, "
        f"of the older run {run}{settings}"
    )


def _in_run(run: Path, which: str) -> Path | None:
    """A run's best or last checkpoint, or the other one if only that exists."""
    folder = run / "checkpoints"
    last = folder / LAST
    best = sorted((path for path in folder.rglob("*.ckpt") if path.name != LAST), key=lambda path: path.stat().st_mtime)
    if which == "best" and len(best) > 1:
        recorded = _recorded_best(folder, best)
        best = [recorded] if recorded else best
    if which == "best" and not best and last.is_file() and (inherited := _inherited_best(last)) is not None:
        if inherited.is_file():
            return inherited
        tell(
            f"--ckpt_path: {run} has no checkpoint better than {inherited}, which is gone: {last.name} is used instead"
        )
    order = [*best[-1:], last] if which == "best" else [last, *best[-1:]]
    return next((path for path in order if path.is_file()), None)


def _recorded_best(folder: Path, candidates: list[Path]) -> Path | None:
    """The best checkpoint as recorded in the newest one, for runs that keep several."""
    newest_first = sorted(folder.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True)
    newest = next((path for path in newest_first if _is_valid(path)), None)
    if newest is None:
        return None
    names = [path.name for path in _best_paths(newest)]
    return next((candidate for name in names for candidate in candidates if candidate.name == name), None)


def _inherited_best(last: Path) -> Path | None:
    """The best checkpoint of the run that a run resumed, if nothing after it was better."""
    return next(iter(_best_paths(last)), None) if _is_valid(last) else None


def _best_paths(checkpoint: Path) -> list[Path]:
    """The paths of best checkpoints that the callbacks have recorded in a checkpoint."""
    states = (load(checkpoint).get("callbacks") or {}).values()
    names = [state.get("best_model_path") for state in states if isinstance(state, Mapping)]
    return [Path(name) for name in names if name and Path(name).name != LAST]
