"""Which commit of a hub repository a run loads, and how a name pins one."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from recipes.models.pretrained import load_config
from recipes.models.revisions import cached_commit, split_revision

COMMITS = ["1" * 40, "2" * 40]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> Path:
    """A hub cache with two commits of the model ``org/tiny``, the first of them tagged v1, the second main."""
    repository = tmp_path / "models--org--tiny"
    for commit in COMMITS:
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        text = (tiny_model / "config.json").read_text(encoding="utf-8")
        (snapshot / "config.json").write_text(text.replace('"hidden_size": 16', '"hidden_size": 1' + commit[0]))
    (repository / "refs").mkdir()
    for name, commit in zip(("v1", "main"), COMMITS, strict=True):
        (repository / "refs" / name).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_revision_follows_the_name_of_a_repository() -> None:
    assert split_revision("org/tiny@v1") == ("org/tiny", "v1")
    assert split_revision("org/tiny") == ("org/tiny", None)


@pytest.mark.parametrize("text", ["Once upon a time " * 20, "org/model@" + "x" * 300])
def test_a_text_that_is_too_long_for_a_path_is_no_repository(text: str, cache: Path) -> None:
    name, revision = split_revision(text)
    assert cached_commit(name, "model", revision) is None


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "tiny@home").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert split_revision("models/tiny@home") == ("models/tiny@home", None)
    assert split_revision("/models/tiny@home") == ("/models/tiny@home", None)


@pytest.mark.parametrize(("revision", "commit"), [(None, 1), ("main", 1), ("v1", 0), (COMMITS[0], 0)])
def test_the_commit_is_that_of_the_revision_or_of_main(cache: Path, revision: str | None, commit: int) -> None:
    assert cached_commit("org/tiny", revision=revision) == COMMITS[commit]


def test_a_repository_that_is_not_in_the_cache_has_no_commit(cache: Path) -> None:
    assert cached_commit("org/other") is None
    assert cached_commit("org/tiny", revision="v2") is None
    assert cached_commit("org/tiny", kind="dataset") is None
    assert cached_commit("../org") is None


def test_a_dataset_without_references_has_its_only_commit(cache: Path) -> None:
    (cache / "datasets--org--texts" / "snapshots" / COMMITS[1]).mkdir(parents=True)
    assert cached_commit("org/texts", kind="dataset") == COMMITS[1]

    (cache / "datasets--org--texts" / "snapshots" / COMMITS[0]).mkdir(parents=True)
    assert cached_commit("org/texts", kind="dataset") is None


@pytest.mark.parametrize(("name", "width"), [("org/tiny", 12), ("org/tiny@v1", 11), (f"org/tiny@{COMMITS[0]}", 11)])
def test_the_loaded_model_is_of_the_given_revision(cache: Path, name: str, width: int) -> None:
    assert load_config(name, "model.pretrained").hidden_size == width
