"""Whether the data and weights of a run are still those that its report records."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipes import resolvers
from recipes.checksums import file_sha256
from recipes.models.revisions import cached_commit, split_revision

DIGITS = 12


def changed_assets(recorded: Mapping[str, str]) -> Iterator[str]:
    """One sentence for each file or repository of the hub that has changed.

    Args:
        recorded: The ``provenance.assets`` of a report.
    """
    yield from (sentence for sentence, is_missing in _differences(recorded) if not is_missing)


def changed_or_missing_assets(recorded: Mapping[str, str]) -> Iterator[str]:
    """As :func:`changed_assets`, and one sentence for each that is no longer there."""
    yield from (sentence for sentence, _ in _differences(recorded))


def _differences(recorded: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    resolvers.register()
    for name, digest in recorded.items():
        if name.startswith("hub:"):
            yield from _repository(name, digest)
            continue
        try:
            path = Path(OmegaConf.create({"path": name})["path"])
            found = file_sha256(path) if path.exists() else None
        except (OmegaConfBaseException, OSError):
            found = None
        if found is None:
            yield f"{name} is missing", True
        elif found != digest:
            yield f"{name} has sha256 {found[:DIGITS]}..., recorded {digest[:DIGITS]}...", False


def _repository(name: str, commit: str) -> Iterator[tuple[str, bool]]:
    kind, _, value = name.removeprefix("hub:").partition("/")
    repository, revision = split_revision(value)
    found = cached_commit(repository, "dataset" if kind == "dataset" else "model", revision)
    if found is None:
        yield f"the {kind} {value} of the hub is not in the cache; it was at commit {commit[:DIGITS]}...", True
    elif found != commit:
        pin = "data.load_args.revision" if kind == "dataset" else f"{repository}@{commit}"
        commits = f"{found[:DIGITS]}..., recorded {commit[:DIGITS]}..."
        yield f"the {kind} {value} of the hub is at commit {commits} ({pin} pins one)", False
