"""The provenance in a report."""

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from recipes import resolvers
from recipes.checksums import file_sha256
from recipes.runs import provenance as module
from recipes.runs.provenance import assets, git_commit, git_dirty, image, locks, machine, provenance


def test_assets_are_the_files_and_folders_that_settings_name(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    settings = {
        "model": {"init_args": {"pretrained": str(tmp_path)}},
        "data": {"init_args": {"train": [f"{tmp_path}/*.csv"], "label": "b.csv", "path": "nyu-mll/glue"}},
        "trainer": {"default_root_dir": str(tmp_path)},
    }

    assert dict(assets(settings)) == {
        str(tmp_path): file_sha256(tmp_path),
        f"{tmp_path}/a.csv": file_sha256(tmp_path / "a.csv"),
        f"{tmp_path}/b.csv": file_sha256(tmp_path / "b.csv"),
    }


def test_a_folder_named_by_a_single_word_is_an_asset_only_in_keys_for_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words").mkdir()
    Path("words", "a").touch()

    assert dict(assets({"model": {"init_args": {"pretrained": "words"}}})) == {"words": file_sha256(Path("words"))}
    assert dict(assets({"data": {"init_args": {"text": "words"}}})) == {}


def test_an_asset_of_a_wheel_is_named_by_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolvers, "_LOCATED", {})
    path = resolvers.wheel("pytest", "pytest/__init__.py")

    assert dict(assets({"model": {"pretrained": path}})) == {
        "${wheel:pytest,pytest/__init__.py}": file_sha256(Path(path))
    }


def test_without_a_repository_the_commit_is_that_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_COMMIT", "0123abc")
    monkeypatch.setenv("GIT_DIRTY", "false")
    monkeypatch.setenv("IMAGE_DIGEST", "sha256:ab")
    monkeypatch.delenv("IMAGE_VERSION", raising=False)

    assert (git_commit(), git_dirty()) == ("0123abc", False)
    assert image() == {"version": None, "digest": "sha256:ab"}


def test_unknown_values_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    for name in ("GIT_COMMIT", "GIT_DIRTY"):
        monkeypatch.delenv(name, raising=False)

    assert (git_commit(), git_dirty(), locks()) == (None, None, {})


def test_the_machine_of_a_run_on_the_cpu_has_no_accelerator() -> None:
    found = machine(torch.device("cpu"))

    assert found["accelerator"] is None
    assert found["processor"]


def test_the_settings_have_their_own_sha256() -> None:
    settings = {"trainer": {"precision": "bf16-mixed"}, "model": {}, "data": {}}
    first, second = (provenance(settings, config, torch.device("cpu")) for config in ("a: 1\n", "a: 2\n"))

    assert first["config"] == "a: 1\n"
    assert first["config_sha256"] != second["config_sha256"]
    assert first["precision"] == "bf16-mixed"


def test_repositories_of_the_hub_are_assets_with_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commits = {"models--org--tiny/refs/main": "1" * 40, "models--org--tiny/refs/v1": "2" * 40}
    for name, commit in {**commits, "datasets--org--texts/refs/v2": "3" * 40}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(commit)
        (tmp_path / name).parents[1].joinpath("snapshots", commit).mkdir(parents=True)
    settings = {
        "model": {"init_args": {"pretrained": "org/tiny@v1"}},
        "data": {"init_args": {"tokenizer": "org/tiny", "path": "org/texts", "load_args": {"revision": "v2"}}},
    }

    assert dict(assets(settings)) == {
        "hub:model/org/tiny": "1" * 40,
        "hub:model/org/tiny@v1": "2" * 40,
        "hub:dataset/org/texts": "3" * 40,
    }


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    for name in ("train[1].csv", "train1.csv"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    file = tmp_path / "train[1].csv"
    assert dict(assets({"data": {"init_args": {"train": str(file)}}})) == {str(file): file_sha256(file)}
