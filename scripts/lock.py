"""Rewrite the lock files in requirements/ from the ranges in pyproject.toml; ``make lock`` runs it.

Seven files come from the package index alone: ``cuda.txt`` (everything the application needs, with the
index's torch, a CUDA build on Linux), ``cpu.txt`` (the same pins without torch and NVIDIA's libraries),
``8bit.txt`` (in addition, the 8-bit optimizers), ``optimizers.txt`` (in addition, other libraries' optimizers),
``dev.txt`` (in addition, what tests and linters need), ``sbom.txt`` (the tool that writes the SBOM of an image) and
``assets.txt`` (weights and text).
``torch-cpu.txt`` also needs PyTorch's own index. If that is not reachable the file is left unchanged, which is correct
as long as the version of torch stays the same.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_CPU_INDEX = os.environ.get("TORCH_CPU_INDEX") or "https://download.pytorch.org/whl/cpu"
COMMON = [
    "--universal",
    "--python-version=3.10",
    "--generate-hashes",
    "--quiet",
    "--custom-compile-command=make lock",
]


def uv_compile(*arguments: str, config: str | None = None, stdin: str | None = None) -> str:
    """Run ``uv pip compile`` in the repository's root and return its output.

    Args:
        arguments: the input file, ``-`` for ``stdin``, and options beyond those common to all lock files.
        config: a uv.toml to use instead of the project's own.
        stdin: the requirements, if the input file is ``-``.

    Raises:
        SystemExit: uv failed; the message is uv's.
    """
    command = [sys.executable, "-m", "uv", *(["--config-file", config] if config else []), "pip", "compile"]
    run = subprocess.run(
        [*command, *arguments, *COMMON],
        cwd=ROOT,
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
        input=stdin,
        text=True,
        capture_output=True,
        check=False,
    )
    if run.returncode:
        raise SystemExit(run.stderr)
    return run.stdout


def pins(lock: str) -> dict[str, set[str]]:
    """Return the pins of each package in a lock file's text: ``name==version``, with its marker if it has one."""
    stated: dict[str, set[str]] = {}
    for pin, name in re.findall(r"^(([a-z0-9._-]+)==[^\\\n]+?) *\\?$", lock, flags=re.MULTILINE):
        stated.setdefault(name, set()).add(pin)
    return stated


def lock_torch_for_cpu(version: str) -> None:
    """Write torch-cpu.txt: PyTorch's CPU wheels for Linux; for other platforms PyPI's wheels are CPU builds."""
    path = ROOT / "requirements" / "torch-cpu.txt"
    try:
        linux = uv_compile(
            "-",
            "--no-deps",
            "--no-header",
            f"--index-url={TORCH_CPU_INDEX}",
            stdin=f"torch=={version}+cpu ; sys_platform == 'linux'",
        )
    except SystemExit as failure:
        if path.exists() and f"torch=={version}+cpu " in path.read_text():
            print(f"requirements/torch-cpu.txt is left unchanged: {TORCH_CPU_INDEX} is not reachable")
            return
        raise SystemExit(f"torch {version}+cpu cannot be locked from {TORCH_CPU_INDEX}:\n{failure}") from None
    plain = f"torch=={version} ; sys_platform != 'linux'"
    elsewhere = uv_compile("-", "--no-deps", "--no-header", stdin=plain)
    header = "# This file was written by uv via the following command:\n#    make lock\n"
    note = "# CPU builds of torch: from PyTorch's own index on Linux, from PyPI elsewhere.\n"
    path.write_text(header + note + linux + elsewhere)


def main() -> None:
    """Parse the command line and rewrite the eight lock files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="update every pin to the newest release in its range")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []

    uv_compile("pyproject.toml", "-c=requirements/constraints.in", "-o=requirements/cuda.txt", *upgrade)
    uv_compile(
        "pyproject.toml",
        "-c=requirements/cuda.txt",
        "--no-emit-package=torch",
        "-o=requirements/cpu.txt",
        *upgrade,
        config="requirements/cpu.toml",
    )
    locked = pins((ROOT / "requirements/cpu.txt").read_text())
    for extra in ("8bit", "optimizers", "dev"):
        ranges = ("pyproject.toml", f"--extra={extra}", "-c=requirements/cuda.txt")
        needed = pins(uv_compile(*ranges, config="requirements/cpu.toml"))
        # A package that the application needs only on some Pythons is pinned again if the extra needs it on others.
        known = ["torch", *(name for name in locked if needed.get(name) == locked[name])]
        uv_compile(
            *ranges,
            *(f"--no-emit-package={name}" for name in known),
            f"-o=requirements/{extra}.txt",
            *upgrade,
            config="requirements/cpu.toml",
        )
        locked |= pins((ROOT / f"requirements/{extra}.txt").read_text())
    uv_compile(
        "requirements/sbom.in", "-c=requirements/cuda.txt", "-c=requirements/dev.txt", "-o=requirements/sbom.txt"
    )
    uv_compile("requirements/assets.in", "--no-deps", "-o=requirements/assets.txt", *upgrade)
    torch = re.search(r"^torch==([0-9.]+)", (ROOT / "requirements/cuda.txt").read_text(), flags=re.MULTILINE)
    assert torch is not None, "cuda.txt always pins torch: pyproject.toml requires it"
    lock_torch_for_cpu(torch[1])


if __name__ == "__main__":
    main()
