"""Where the setup looks for torch's CPU build, and its error message if there is none."""

import subprocess

import pytest

from scripts import install

INDEX = "https://index.example/whl/cpu"


class FakePip:
    """Returns the next of the given exit statuses for each call of pip, and records the calls."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, *arguments: str, quietly: bool = False) -> "subprocess.CompletedProcess[str]":
        self.calls.append(arguments)
        status = self.statuses.pop(0)
        return subprocess.CompletedProcess(arguments, status, stderr=f"error {len(self.calls)}")


def test_no_other_index_is_used_if_pip_finds_the_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip(0)
    monkeypatch.setattr(install, "pip", pip)
    install.install_torch_for_cpu(INDEX)
    (call,) = pip.calls
    assert not any(argument.startswith("--index-url") for argument in call)


def test_pytorchs_index_is_used_next_with_a_timeout_and_the_same_hashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pip = FakePip(1, 0)
    monkeypatch.setattr(install, "pip", pip)
    install.install_torch_for_cpu(INDEX)
    _, second = pip.calls
    assert {f"--index-url={INDEX}", "--timeout=15", "--require-hashes", "--no-deps"} <= set(second)


def test_a_missing_cpu_build_is_reported_with_three_remedies_and_both_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "pip", FakePip(1, 1))
    with pytest.raises(SystemExit) as stopped:
        install.install_torch_for_cpu(INDEX)
    for remedy in ("make setup TORCH_CPU_INDEX=URL", "PIP_FIND_LINKS=FOLDER make setup", "VARIANT=cuda"):
        assert remedy in str(stopped.value)
    errors = capsys.readouterr().err
    assert "error 1" in errors
    assert "error 2" in errors


def test_the_cuda_lock_replaces_a_cpu_build_that_satisfies_pip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pip = FakePip(0, 0)
    monkeypatch.setattr(install, "pip", pip)
    monkeypatch.setattr(install, "installed_torch", lambda: "2.13.0+cpu")
    monkeypatch.setattr(install, "compile_modules", lambda: None)
    monkeypatch.setattr("sys.argv", ["install.py", "cuda"])
    install.main()
    assert pip.calls[0] == ("uninstall", "--yes", "torch")
    assert "install" in pip.calls[1]


def test_lock_files_and_project_are_installed_in_the_order_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pip = FakePip(0, 0, 0)
    compiled: list[bool] = []
    monkeypatch.setattr(install, "pip", pip)
    monkeypatch.setattr(install, "compile_step", lambda: compiled.append(True))
    monkeypatch.setattr("sys.argv", ["install.py", "assets", "project", "sbom"])
    install.main()
    assets, project, sbom = ("\n".join(call) for call in pip.calls)
    assert "requirements/assets.txt" in assets
    assert "--editable" in project
    assert compiled
    assert "requirements/sbom.txt" in sbom
    assert "--require-hashes" in assets
    assert "--require-hashes" in sbom


def test_machine_without_a_c_compiler_is_told_so_and_set_up_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    install.compile_step()
    told = capfd.readouterr().err
    assert "The optimizer's step was not compiled: CC names 'no-such-compiler', which is not installed." in told
    assert "it is taken in plain torch operations" in told
