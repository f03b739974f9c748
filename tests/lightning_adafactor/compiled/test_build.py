"""Building the library, and steps where it is missing or does not match its sources."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_adafactor import Adafactor
from lightning_adafactor.compiled import build, library
from tests.lightning_adafactor.compiled.available import needs_compiled


@pytest.fixture
def fresh_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads the library again at each call, during this test."""
    monkeypatch.setattr(library, "load", library.load.__wrapped__)


def command(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def stepped() -> tuple[Adafactor, torch.Tensor]:
    param = nn.Parameter(torch.ones(4, 3))
    param.grad = torch.ones(4, 3)
    optimizer = Adafactor([param], lr=0.1)
    optimizer.step()
    return optimizer, param.detach()


@needs_compiled
def test_a_build_is_one_file_that_carries_the_digest_of_its_sources(tmp_path: Path) -> None:
    target = build.build(tmp_path / "folder" / "step.so", flags=["-O0"])

    assert [path.name for path in target.parent.iterdir()] == ["step.so"]
    assert library.Library(target).digest == build.digest()


@pytest.mark.parametrize("what", ["source", "flags"])
def test_digest_follows_from_sources_and_flags(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.digest()
    changed = tmp_path / build.SOURCES[0].name
    changed.write_bytes(build.SOURCES[0].read_bytes() + b"\n")
    if what == "source":
        monkeypatch.setattr(build, "SOURCES", [changed, *build.SOURCES[1:]])
    else:
        monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))

    assert build.digest() != before


def test_missing_compiler_is_an_error_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)

    assert build.main([]) == 2
    message = capsys.readouterr().err
    assert "no C compiler (cc, gcc or clang) is installed" in message
    assert "apt install gcc libc6-dev" in message
    assert build.main(["--optional"]) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="the compiled step is not supported on Windows")
def test_first_error_of_a_failing_compiler_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", str(command(tmp_path / "bad-cc", "echo 'x.c:1: error: no such header' >&2; exit 1")))

    assert build.main([]) == 2
    assert "x.c:1: error: no such header" in capsys.readouterr().err


@pytest.mark.usefixtures("fresh_load")
def test_without_library_the_step_is_taken_in_torch_operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "step.so")
    optimizer, param = stepped()

    (choice,) = optimizer.implementation().values()
    assert choice.path == "plain"
    assert (
        "has not been built (build it with python -m lightning_adafactor.compiled.build)" in choice.reasons["compiled"]
    )
    assert (param < 1).all()
    with pytest.raises(RuntimeError, match=r"^compiled=True is not supported: the compiled step has not been built"):
        Adafactor([nn.Parameter(torch.ones(2))], compiled=True)


@needs_compiled
@pytest.mark.usefixtures("fresh_load")
def test_library_older_than_its_sources_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "LIBRARY", Path(shutil.copy(build.LIBRARY, tmp_path)))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    with pytest.warns(UserWarning, match="is older than its sources"):
        optimizer, _ = stepped()

    (choice,) = optimizer.implementation().values()
    assert choice.path == "plain"


@pytest.mark.usefixtures("fresh_load")
def test_file_that_is_not_a_library_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "step.so")
    build.LIBRARY.write_bytes(b"no library")
    with pytest.warns(UserWarning, match="cannot be loaded"):
        optimizer, _ = stepped()

    (choice,) = optimizer.implementation().values()
    assert choice.path == "plain"


@needs_compiled
@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf, which is not installed")
def test_library_links_only_to_the_c_library() -> None:
    run = subprocess.run(["readelf", "-d", str(build.LIBRARY)], capture_output=True, text=True, check=True)
    needed = {line.split("[")[1].rstrip("]") for line in run.stdout.splitlines() if "(NEEDED)" in line}

    assert {name.partition(".")[0] for name in needed} <= {"libc", "libm"}
