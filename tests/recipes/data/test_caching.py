"""What ``datasets`` has cached is not used any more once the code that made it has changed."""

import importlib
import sys
from pathlib import Path

import pytest
from datasets import Dataset

from recipes.data.caching import Cached

CODE = """
def shout(batch):
    return {{"text": [text{} for text in batch["text"]]}}
"""


def shouted(folder: Path, code: str) -> list[str]:
    """What a module of this code, imported anew, makes of the same rows."""
    (folder / "shouting.py").write_text(CODE.format(code), encoding="utf-8")
    sys.modules.pop("shouting", None)
    importlib.invalidate_caches()
    shout = importlib.import_module("shouting").shout
    return Dataset.from_file(str(folder / "rows.arrow")).map(Cached(shout), batched=True)["text"][:]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two rows on disk, which modules are imported from."""
    from datasets.arrow_writer import ArrowWriter

    with ArrowWriter(path=str(tmp_path / "rows.arrow")) as writer:
        writer.write_batch({"text": ["a", "b"]})
        writer.finalize()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def test_changed_code_is_run_and_not_its_old_result(folder: Path) -> None:
    assert shouted(folder, ".upper()") == ["A", "B"]
    assert shouted(folder, " + '!'") == ["a!", "b!"]


def test_the_same_code_finds_its_result_again(folder: Path) -> None:
    shouted(folder, ".upper()")
    made = sorted(folder.glob("cache-*.arrow"))
    assert len(made) == 1
    written = made[0].stat().st_mtime_ns

    assert shouted(folder, ".upper()") == ["A", "B"]
    assert sorted(folder.glob("cache-*.arrow")) == made
    assert made[0].stat().st_mtime_ns == written
