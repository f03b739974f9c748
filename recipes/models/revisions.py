"""Names on the Hugging Face hub: ``org/model@revision``, and which commit of a name is in the cache."""

import re
from pathlib import Path
from typing import Literal

REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def split_revision(name: str) -> tuple[str, str | None]:
    """A hub name and the commit, tag or branch that follows its ``@``, None if nothing does; paths stay whole."""
    repository, at, revision = name.partition("@")
    if not (at and revision and REPOSITORY.fullmatch(repository)) or Path(name).expanduser().exists():
        return name, None
    return repository, revision


def cached_commit(name: str, kind: Literal["model", "dataset"] = "model", revision: str | None = None) -> str | None:
    """The commit of a hub repository that a run without the network would load.

    Args:
        name: The repository's name.
        kind: What is in it.
        revision: The commit, tag or branch that is asked for; the branch ``main`` if None.

    Returns:
        40 hexadecimal digits; None if nothing of it is in the cache, or if it cannot be told which.
    """
    from huggingface_hub import constants

    if not REPOSITORY.fullmatch(name) or Path(name).exists():
        return None
    folder = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}")
    reference = folder / "refs" / (revision or "main")
    if reference.is_file():
        return reference.read_text(encoding="utf-8").strip()
    # What was asked for by its commit has no reference, and datasets always asks so.
    commits = [snapshot.name for snapshot in folder.glob("snapshots/*")]
    if revision is not None:
        return revision if revision in commits else None
    return commits[0] if len(commits) == 1 else None
