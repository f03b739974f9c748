"""Names on the Hugging Face hub: ``org/model@revision``, and the commit of a name in the cache."""

import re
from pathlib import Path
from typing import Literal

REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def split_revision(name: str) -> tuple[str, str | None]:
    """A hub name and the commit, tag or branch after its ``@``, None without one; paths are not split."""
    repository, at, revision = name.partition("@")
    if not (at and revision and REPOSITORY.fullmatch(repository)) or _exists(name):
        return name, None
    return repository, revision


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except OSError:  # too long for a path
        return False


def cached_commit(name: str, kind: Literal["model", "dataset"] = "model", revision: str | None = None) -> str | None:
    """The commit of a hub repository that a run without the network would load.

    Args:
        name: The repository's name.
        kind: Its type.
        revision: The commit, tag or branch; None for the branch ``main``.

    Returns:
        40 hexadecimal digits; None if the cache does not hold it, or holds several commits and does not tell which.
    """
    from huggingface_hub import constants, scan_cache_dir, snapshot_download
    from huggingface_hub.errors import CacheNotFound, HFValidationError, LocalEntryNotFoundError

    if not REPOSITORY.fullmatch(name) or _exists(name):
        return None
    try:
        snapshot = snapshot_download(name, repo_type=kind, revision=revision, local_files_only=True, allow_patterns=[])
        return Path(snapshot).name
    except HFValidationError:
        return None
    except LocalEntryNotFoundError:
        if kind == "model" or revision is not None:
            return None
    # datasets asks for the commit that a branch is at, which leaves no reference to the branch in the cache.
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return None
    found = [repo for repo in repositories if (repo.repo_type, repo.repo_id) == (kind, name)]
    commits = [revision.commit_hash for repo in found for revision in repo.revisions]
    return commits[0] if len(commits) == 1 else None
