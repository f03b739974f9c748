"""The Dockerfile, .dockerignore and the compose files, checked without a build."""

import json
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile and its arguments on one line, without comments."""
    code = "\n".join(line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#"))
    lines = re.sub(r"\\\n\s*", "", code).splitlines()
    return [(name, words.strip()) for name, _, words in (line.partition(" ") for line in lines if line.strip())]


def words_of(instruction: str) -> list[str]:
    return [words for name, words in instructions() if name == instruction]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage in the order of the file; the first is FROM."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, words in instructions():
        if name == "FROM":
            found[words.rpartition(" ")[2]] = []
        if found:
            found[next(reversed(found))].append((name, words))
    return found


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint has no release for this platform")
    run = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_default_target_is_the_image_without_weights() -> None:
    assert list(stages()) == ["packages", "application", "offline", "runtime"]
    assert stages()["runtime"] == [("FROM", "application AS runtime")]


def test_only_the_base_image_is_external_and_its_tag_is_pinned() -> None:
    names = {words.rpartition(" ")[2] for words in words_of("FROM")}
    assert {words.partition(" ")[0] for words in words_of("FROM")} - names == {"${BASE_IMAGE}"}
    (base,) = [words for words in words_of("ARG") if words.startswith("BASE_IMAGE=")]
    assert re.fullmatch(r"BASE_IMAGE=[a-z/.]+:\d+\.\d+-[a-z-]+(@sha256:[0-9a-f]{64})?", base)


def test_every_image_runs_as_a_numeric_user_other_than_root() -> None:
    for name in ("application", "offline"):
        users = [words for instruction, words in stages()[name] if instruction == "USER"]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_the_entrypoint_is_the_fit_command() -> None:
    assert [json.loads(words) for words in words_of("ENTRYPOINT")] == [["python", "-m", "recipes.fit"]]


def test_caches_and_runs_are_volumes() -> None:
    (volumes,) = [json.loads(words) for words in words_of("VOLUME")]
    settings = dict(word.split("=", 1) for words in words_of("ENV") for word in words.split() if "=" in word)
    assert set(volumes) == {settings["RUNS_DIR"], settings["HF_HOME"], settings["TRITON_CACHE_DIR"]}


def test_packages_are_installed_only_by_the_script_that_checks_hashes() -> None:
    runs = "\n".join(words_of("RUN"))
    assert 'scripts/install.py "${VARIANT}"' in runs
    assert not re.search(r"pip3? install|curl |wget ", runs)
    assert "ADD" not in {name for name, _ in instructions()}


def test_builders_without_buildkit_can_parse_it() -> None:
    assert "<<" not in DOCKERFILE
    assert not any("--link" in words for words in words_of("COPY"))


def test_no_argument_or_variable_is_a_secret() -> None:
    named = "\n".join([*words_of("ARG"), *words_of("ENV")])
    assert not re.search(r"token|password|secret|api_?key", named, flags=re.IGNORECASE)


def test_compiler_for_triton_is_in_the_image() -> None:
    assert any("gcc libc6-dev" in words for name, words in stages()["application"] if name == "RUN")


def test_labels_and_environment_get_the_same_revision_and_version() -> None:
    labels, variables = " ".join(words_of("LABEL")), " ".join(words_of("ENV"))
    for name in ("version", "revision", "created", "licenses", "title", "description"):
        assert f"org.opencontainers.image.{name}=" in labels
    assert 'revision="${REVISION}"' in labels
    assert "GIT_COMMIT=${REVISION}" in variables
    assert "GIT_DIRTY=${DIRTY}" in variables
    assert "IMAGE_VERSION=${VERSION}" in variables


def test_the_build_context_contains_only_what_the_image_needs() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    admitted = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    assert all((ROOT / name).exists() for name in admitted)
    assert not {name for name in admitted if name.startswith((".", "tests", "runs", "docs"))}
    copied = {word for words in words_of("COPY") if "--from" not in words for word in words.split()[:-1]}
    assert {name.rstrip("/") for name in copied} - {"."} <= admitted


def test_the_gpu_compose_file_adds_all_gpus_to_fit_and_nothing_else() -> None:
    gpus = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert services("compose.gpu.yaml") == {"fit": {"deploy": {"resources": {"reservations": {"devices": [gpus]}}}}}
    assert services("compose.gpu.yaml").keys() <= services("compose.yaml").keys()


def services(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())["services"]
    return found


def test_compose_builds_a_stage_and_uses_arguments_that_exist() -> None:
    declared = {words.partition("=")[0] for words in words_of("ARG")}
    for service in services("compose.yaml").values():
        target = re.fullmatch(r"\$\{TARGET:-(\w+)\}", service["build"]["target"])
        assert target is not None
        assert target[1] in stages()
        assert set(service["build"]["args"]) <= declared


def test_compose_runs_both_services_with_a_read_only_root_and_not_as_root() -> None:
    for service in services("compose.yaml").values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "${UID:-10001}:${GID:-10001}"


def test_tensorboard_reads_the_folder_that_fit_writes() -> None:
    both = services("compose.yaml")
    assert "${RUNS:-runs}:/runs" in both["fit"]["volumes"]
    assert both["tensorboard"]["volumes"] == ["${RUNS:-runs}:/runs:ro"]
    assert both["tensorboard"]["entrypoint"][:3] == ["tensorboard", "--logdir", "/runs"]


def test_compose_mounts_its_volumes_where_the_image_declares_them() -> None:
    (volumes,) = [json.loads(words) for words in words_of("VOLUME")]
    mounted = {volume.split(":/")[1] for volume in services("compose.yaml")["fit"]["volumes"]}
    assert {f"/{path}" for path in mounted} == set(volumes)
