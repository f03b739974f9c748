"""Install locked packages into the environment whose Python runs this file; ``make`` and the Dockerfile run it.

A machine needs nothing but Python, make and a package index. pip is the only tool: it keeps to the indexes,
mirrors, proxies and certificates that the machine is configured for. Every file is checked against the sha256
in its lock. ``--no-deps`` is safe because a lock names each package that is needed, and it keeps pip from
fetching a torch build that was not asked for.
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
    "cuda": "what the application needs, with torch as the package index serves it: a CUDA build on Linux",
    "assets": "the wheels that carry weights and texts",
    "project": "the application itself, as it lies here",
    "8bit": "the 8-bit optimizers that the application can be compared with",
    "sbom": "the tool that lists what an image holds",
    "step": "nothing, but compiles the optimizer's step for CPUs anew; project does so too",
    "dev": "what tests and checks need beyond these",
}


def pip(*arguments: str, quietly: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pip in this environment; with ``quietly``, keep what it complains about instead of printing it."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    # A pip configured to install for the user would refuse to install into a virtual environment.
    environment = {**os.environ, "PIP_USER": "0"}
    words = subprocess.PIPE if quietly else None
    return subprocess.run(command, env=environment, text=True, stderr=words, check=False)


def install(*locks: str) -> None:
    """Install exactly what the lock files name, or exit."""
    run = pip("install", "--no-compile", "--no-deps", "--require-hashes", *requirements(*locks))
    if run.returncode:
        raise SystemExit("\nThe packages could not be installed; pip's reason is above.")


def requirements(*locks: str) -> list[str]:
    """Return pip's options that name the lock files."""
    return [f"--requirement={ROOT / 'requirements' / lock}" for lock in locks]


def install_torch_for_cpu(index: str) -> None:
    """Install PyTorch's CPU build from wherever this machine can get it.

    First from what pip is configured to search: a folder of wheels, a company's mirror, or, on macOS and
    Windows, the ordinary index. On most Linux machines that has no CPU build, so PyTorch's own index comes
    next, with a time limit short enough that a blocked network is noticed within a minute.

    Args:
        index: address of the index that serves PyTorch's CPU builds.

    Raises:
        SystemExit: neither has a wheel whose sha256 is in the lock.
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
        f"\nNo locked CPU build of torch could be had for Python {platform.python_version()} on "
        f"{sys.platform} {platform.machine()}, neither from pip's configured sources nor from {index}; pip's "
        "words are above. If the network blocks that address, name a mirror: make setup TORCH_CPU_INDEX=URL. "
        "If you have the wheel, name its folder: PIP_FIND_LINKS=FOLDER make setup. Or take the ordinary "
        "index's build, several gigabytes that run without a GPU too: make setup VARIANT=cuda."
    )


def compile_modules() -> None:
    """Byte-compile what a run imports, on all cores; pip would do every file of every package on one."""
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
        # pip would call the requirement torch==X satisfied by X+cpu.
        pip("uninstall", "--yes", "torch")
    install(f"{variant}.txt")
    compile_modules()


def compile_step() -> None:
    """Compile the optimizer's step for CPUs where there is a C compiler; say so where there is none, and go on."""
    builder = ROOT / "lightning_adafactor" / "compiled" / "build.py"
    subprocess.run([sys.executable, str(builder), "--optional"], check=False)


def install_project() -> None:
    """Install the application so that ``python -m recipes.fit`` works from any folder, or exit."""
    if pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)).returncode:
        raise SystemExit("\nThe project itself could not be installed; pip's reason is above.")
    compile_step()


def main() -> None:
    """Parse the command line and install what it asks for, in the order given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    explained = "; ".join(f"{name}: {text}" for name, text in WHAT.items())
    parser.add_argument("what", nargs="+", choices=WHAT, metavar="WHAT", help=explained)
    parser.add_argument(
        "--torch-cpu-index",
        metavar="URL",
        default=TORCH_CPU_INDEX,
        help="index of CPU builds, for what pip's sources lack (default: %(default)s)",
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
