"""Which container engine is used, and with which commands."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from scripts import container


def write_command(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH; environment variables that name engines and scripts are unset."""
    for name in ("CONTAINER_ENGINE", "CONTAINER_CHECK", "BASE_IMAGE", "TORCH_CPU_INDEX", "SOURCE_DATE_EPOCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_docker_comes_before_podman(commands: Path) -> None:
    write_command(commands, "docker", "exit 0")
    write_command(commands, "podman", "exit 0")
    assert container.find_engine() == "docker"


def test_podman_is_used_if_docker_has_no_daemon(commands: Path) -> None:
    write_command(commands, "docker", "exit 1")
    write_command(commands, "podman", "exit 0")
    assert container.find_engine() == "podman"


def test_the_engine_named_by_the_variable_is_used(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_command(commands, "docker", "exit 0")
    write_command(commands, "podman", "exit 0")
    monkeypatch.setenv("CONTAINER_ENGINE", "podman")
    assert container.find_engine() == "podman"


def test_a_missing_engine_is_reported_in_a_sentence_with_exit_status_69(
    commands: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["container.py", "engine"])
    assert container.main() == 69
    assert "Nothing was run: neither docker nor podman is installed." in capsys.readouterr().err


def test_an_engine_that_does_not_work_is_named(commands: Path) -> None:
    write_command(commands, "docker", "exit 1")
    with pytest.raises(container.NoEngineError, match="docker does not work on this machine: `docker info` fails"):
        container.find_engine()


def test_a_base_image_that_cannot_be_pulled_is_named_with_the_error_of_the_engine(commands: Path) -> None:
    write_command(commands, "docker", '[ "$1" = image ] || echo "no such host" >&2; exit 1')
    with pytest.raises(container.NoEngineError, match=r"no image python:.* and cannot pull it \(no such host\)"):
        container.check_base("docker")


def test_a_local_base_image_is_not_pulled(commands: Path) -> None:
    write_command(commands, "docker", f'echo "$1" >> {commands / "calls"}; [ "$1" = image ]')
    container.check_base("docker")
    assert (commands / "calls").read_text() == "image\n"


def test_a_build_gets_variant_target_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "abc123", "show": "1700000000", "status": " M recipes/cli/main.py"}
    monkeypatch.setattr(container, "git", lambda *arguments: answers[arguments[0]])
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    command = container.build_command("docker", "offline", "cuda")
    given = {part.removeprefix("--build-arg=") for part in command if part.startswith("--build-arg=")}
    assert {"VARIANT=cuda", "REVISION=abc123", "DIRTY=true", "SOURCE_DATE_EPOCH=1700000000"} <= given
    assert "CREATED=2023-11-14T22:13:20+00:00" in given
    assert {"--target=offline", "--tag=lightning-adafactor:offline-cuda"} <= set(command)


def test_a_build_without_git_gets_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "git", lambda *arguments: "")
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert container.provenance().keys() == {"VERSION", "REVISION"}


def test_every_build_argument_is_declared_in_the_dockerfile() -> None:
    declared = {
        line.split()[1].partition("=")[0]
        for line in (container.ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("ARG ")
    }
    assert {"VARIANT", "BASE_IMAGE", "TORCH_CPU_INDEX", *container.provenance()} <= declared


def test_a_run_is_isolated_runs_as_the_calling_user_and_writes_only_to_the_runs_folder(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_command(commands, "docker", "echo sha256:0123")
    monkeypatch.chdir(tmp_path)
    command = container.fit_command("docker", "offline", "cpu", ["--config", "mine.yaml"], tmp_path / "runs")
    assert {"--read-only", "--cap-drop=ALL", "--network=none"} <= set(command)
    assert f"--user={os.getuid()}:{os.getgid()}" in command
    assert f"--volume={tmp_path / 'runs'}:/runs" in command
    assert f"--volume={tmp_path}:/work:ro" in command
    assert "--env=IMAGE_DIGEST=sha256:0123" in command
    assert command[-3:] == ["lightning-adafactor:offline-cpu", "--config", "mine.yaml"]


def test_a_run_without_the_assets_may_use_the_network(commands: Path, tmp_path: Path) -> None:
    write_command(commands, "docker", "exit 0")
    assert "--network=none" not in container.fit_command("docker", "runtime", "cpu", [], tmp_path)


def test_gpus_are_available_only_in_an_image_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)
    assert container.gpu_options("docker", "cuda") == ["--gpus=all"]
    assert container.gpu_options("podman", "cuda") == ["--device=nvidia.com/gpu=all"]
    assert container.gpu_options("docker", "cpu") == []


def test_rootless_podman_keeps_the_user_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert "--userns=keep-id" in container.as_user("podman", "1000:1000")
    assert "--userns=keep-id" not in container.as_user("docker", "1000:1000")


def test_options_after_fit_are_passed_to_the_recipe(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_command(commands, "docker", 'echo "$@"')
    monkeypatch.chdir(tmp_path)
    words = ["--config", "mine.yaml", "--trainer.max_steps", "3", "--target", "x"]
    monkeypatch.setattr("sys.argv", ["container.py", "--target=runtime", "fit", *words])
    assert container.main() == 0
    started = capfd.readouterr().out.splitlines()[-1].split()
    assert started[0] == "run"
    assert started[-7:] == ["lightning-adafactor:runtime-cpu", *words]


def test_options_after_image_are_passed_to_the_build_command(
    commands: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_command(commands, "docker", '[ "$1" = info ] || { echo "$@"; exit 3; }')
    monkeypatch.setattr("sys.argv", ["container.py", "image", "--no-cache", "--progress", "plain"])
    assert container.main() == 3
    started = capfd.readouterr().out.splitlines()[-1].split()
    assert started[0] == "build"
    assert started[-4:] == ["--no-cache", "--progress", "plain", str(container.ROOT)]


def test_ctrl_c_waits_for_the_container_to_save_and_end(tmp_path: Path) -> None:
    saving = "trap 'sleep 1; touch saved; exit 7' INT; touch ready; while :; do sleep 0.05; done"
    program = f"import sys; from scripts import container; sys.exit(container.call(['sh', '-c', {saving!r}]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(container.ROOT)},
        start_new_session=True,
    )
    try:
        while not (tmp_path / "ready").exists() and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 7
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "saved").exists()


def test_the_script_for_checks_gets_target_folder_and_user(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINER_CHECK", "/opt/check.sh")
    command = container.check_command("offline", ["--config", "cls.yaml"], tmp_path, "4321:4321")
    assert command[0] == "/opt/check.sh"
    assert command[-4:] == [str(container.ROOT), "--", "--config", "cls.yaml"]
    options = " ".join(command[1:-4])
    assert options.startswith("--target offline --build-arg VERSION=")
    assert options.endswith(f" -o {tmp_path} -e RUNS_DIR=/out -u 4321:4321")
