"""Install locked packages into the environment whose Python runs this file; ``make`` and the Dockerfile run it.

A machine needs only Python, make and a package index. pip is the only tool: it uses the indexes, mirrors, proxies
and certificates that the machine is configured for. Every file is checked against the sha256 in its lock file.
``--no-deps`` is safe because a lock file lists every package that is needed, and it keeps pip from downloading
another build of torch.
"""

import argparse
import compileall
import os
import platform
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
WHAT = {
    "cpu": "what the application needs, with PyTorch's CPU build",
    "cuda": "what the application needs, with the package index's torch: a CUDA build on Linux",
    "assets": "the wheels with weights and texts",
    "project": "the application itself, editable",
    "8bit": "the 8-bit optimizers, for comparisons",
    "optimizers": "other libraries' optimizers, for comparisons; needs 8bit",
    "sbom": "the tool that writes the SBOM of an image",
    "step": "nothing; compiles the optimizer's step for CPUs, as project does",
    "dev": "what tests and linters need in addition",
}


def pip(*arguments: str, quietly: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pip in this environment; with ``quietly``, capture its error output instead of printing it."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    # A pip configured to install for the user would refuse to install into a virtual environment.
    environment = {**os.environ, "PIP_USER": "0"}
    errors = subprocess.PIPE if quietly else None
    return subprocess.run(command, env=environment, text=True, stderr=errors, check=False)


def install(*locks: str) -> None:
    """Install exactly what the lock files list, or exit."""
    run = pip("install", "--no-compile", "--no-deps", "--require-hashes", *requirements(*locks))
    if run.returncode:
        raise SystemExit("\nThe packages could not be installed; pip's error is above.")


def requirements(*locks: str) -> list[str]:
    """Return pip's options for the lock files."""
    return [f"--requirement={ROOT / 'requirements' / lock}" for lock in locks]


def install_torch_for_cpu(index: str) -> None:
    """Install PyTorch's CPU build from the first source that has it.

    The first source is what pip is configured to use: a folder of wheels, a company's mirror, or, on macOS and
    Windows, PyPI. On most Linux machines it has no CPU build, so the second source is PyTorch's own index, with
    a time limit short enough that a blocked network is noticed within a minute.

    Args:
        index: URL of the index of PyTorch's CPU builds.

    Raises:
        SystemExit: neither has a wheel whose sha256 is in the lock file.
    """
    command = ("install", "--no-compile", "--no-deps", "--require-hashes", *requirements("torch-cpu.txt"))
    configured = pip(*command, quietly=True)
    if configured.returncode == 0:
        return
    print(f"pip's configured sources have no CPU build of torch for this machine; trying {index}", flush=True)
    official = pip(*command, f"--index-url={index}", "--timeout=15", "--retries=2", quietly=True)
    if official.returncode == 0:
        return
    for source, failure in (("pip's configured sources", configured), (index, official)):
        print(f"--- {source}:\n{failure.stderr.strip()}", file=sys.stderr)
    raise SystemExit(
        f"\nNo locked CPU build of torch was found for Python {platform.python_version()} on "
        f"{sys.platform} {platform.machine()}, neither in pip's configured sources nor at {index}; pip's "
        "errors are above. If the network blocks that URL, set a mirror: make setup TORCH_CPU_INDEX=URL. "
        "If you have the wheel, set its folder: PIP_FIND_LINKS=FOLDER make setup. Or install the CUDA build "
        "from PyPI, several gigabytes, which also runs without a GPU: make setup VARIANT=cuda."
    )


def compile_modules() -> None:
    """Byte-compile what a run imports, on all cores; pip would compile every file of every package on one."""
    unused = re.compile(r"transformers.models.|torch.testing.|.tests.")
    compileall.compile_dir(sysconfig.get_path("purelib"), rx=unused, quiet=2, workers=0)


def installed_torch() -> str:
    """Return the installed torch's version, or an empty string."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def install_packages(variant: str, torch_cpu_index: str) -> None:
    """Install what the application needs, and byte-compile it."""
    if variant == "cpu":
        install_torch_for_cpu(torch_cpu_index)
    elif installed_torch().endswith("+cpu"):
        # For pip, the installed X+cpu satisfies the requirement torch==X.
        pip("uninstall", "--yes", "torch")
    install(f"{variant}.txt")
    compile_modules()


def compile_step() -> None:
    """Compile the optimizer's step for CPUs where there is a C compiler; say so where there is none, and continue."""
    builder = ROOT / "lightning_adafactor" / "compiled" / "build.py"
    subprocess.run([sys.executable, str(builder), "--optional"], check=False)


def install_project() -> None:
    """Install the application so that ``python -m recipes.fit`` works from any folder, or exit."""
    if pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)).returncode:
        raise SystemExit("\nThe project itself could not be installed; pip's error is above.")
    compile_step()


def main() -> None:
    """Parse the command line and install what it names, in the order given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    explained = "; ".join(f"{name}: {text}" for name, text in WHAT.items())
    parser.add_argument("what", nargs="+", choices=WHAT, metavar="WHAT", help=explained)
    parser.add_argument(
        "--torch-cpu-index",
        metavar="URL",
        default=TORCH_CPU_INDEX,
        help="index of CPU builds, used if pip's sources have none (default: %(default)s)",
    )
    arguments = parser.parse_args()

    for what in arguments.what:
        if what in ("cpu", "cuda"):
            install_packages(what, arguments.torch_cpu_index)
        elif what == "project":
            install_project()
        elif what == "step":
            compile_step()
        else:
            install(f"{what}.txt")


if __name__ == "__main__":
    main()
