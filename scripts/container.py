"""Build and run the project's image with docker or podman; ``make image`` and other targets use it.

Only the standard library is needed, so a machine with a container engine needs no environment of the project.
The engine is the first of docker and podman that works, or the one named by the variable CONTAINER_ENGINE.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("docker", "podman")
UNAVAILABLE = 69  # sysexits.h: a service is unavailable
SEALED = [
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
]


class NoEngineError(Exception):
    """No container engine works; the message is a sentence with the reason."""


def find_engine() -> str:
    """Return the engine to use, ``docker`` or ``podman``.

    Raises:
        NoEngineError: none is installed, or those that are installed do not work.
    """
    asked = os.environ.get("CONTAINER_ENGINE")
    silent = []
    for name in (asked,) if asked else ENGINES:
        if shutil.which(name) is None:
            continue
        if answers(name):
            return name
        silent.append(name)
    if silent:
        raise NoEngineError(f"{' and '.join(silent)} does not work on this machine: `{silent[0]} info` fails")
    raise NoEngineError(f"{asked} is not installed" if asked else "neither docker nor podman is installed")


def answers(engine: str) -> bool:
    """Whether the engine works; the docker command may be installed without a running daemon."""
    try:
        return subprocess.run([engine, "info"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def base_image() -> str:
    """The base image: the variable BASE_IMAGE, or the one that the Dockerfile names."""
    named = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert named is not None, "the Dockerfile names its base image"
    return os.environ.get("BASE_IMAGE") or named[1]


def check_base(engine: str) -> None:
    """Pull the base image if it is not available locally.

    Raises:
        NoEngineError: it is not available and cannot be pulled.
    """
    base = base_image()
    if subprocess.run([engine, "image", "inspect", base], capture_output=True, check=False).returncode == 0:
        return
    pull = subprocess.run([engine, "pull", "--quiet", base], capture_output=True, text=True, check=False)
    if pull.returncode:
        reason = (pull.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NoEngineError(f"{engine} has no image {base} and cannot pull it ({reason})")


def image_name(target: str, variant: str) -> str:
    """The tag of an image, such as ``lightning-adafactor:offline-cpu``."""
    return f"lightning-adafactor:{target}-{variant}"


def git(*arguments: str) -> str:
    """The output of git for this checkout; empty if there is no git or no checkout."""
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def provenance() -> dict[str, str]:
    """The build arguments with version and commit; the creation time of the image is the commit's."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version is not None, "pyproject.toml states the version"
    commit = git("rev-parse", "HEAD")
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or git("show", "--no-patch", "--format=%ct", "HEAD")
    stated = {"VERSION": version[1], "REVISION": commit}
    if commit:
        stated["DIRTY"] = "true" if git("status", "--porcelain") else "false"
    if epoch:
        stated["SOURCE_DATE_EPOCH"] = epoch
        stated["CREATED"] = datetime.fromtimestamp(int(epoch), timezone.utc).isoformat()
    return stated


def build_command(engine: str, target: str, variant: str, options: Sequence[str] = ()) -> list[str]:
    """The command that builds an image.

    Args:
        engine: docker or podman.
        target: stage of the Dockerfile.
        variant: cpu or cuda.
        options: further options of ``build``.
    """
    arguments = {"VARIANT": variant, **provenance()}
    for name in ("BASE_IMAGE", "TORCH_CPU_INDEX"):
        if os.environ.get(name):
            arguments[name] = os.environ[name]
    given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    return [engine, "build", f"--target={target}", f"--tag={image_name(target, variant)}", *given, *options, str(ROOT)]


def as_user(engine: str, user: str) -> list[str]:
    """The options with which files written in the container belong to ``user``, given as ``uid:gid``."""
    # Rootless podman maps user ids: the calling user's id must be the same inside the container.
    mapped = engine == "podman" and os.getuid() != 0
    return [f"--user={user}", *(["--userns=keep-id"] if mapped else [])]


def calling_user() -> str:
    """The calling user and group, as ``uid:gid``."""
    return f"{os.getuid()}:{os.getgid()}"


def gpu_options(engine: str, variant: str) -> list[str]:
    """The options that make all GPUs available in the container, if the image supports CUDA and there are any."""
    if variant != "cuda" or not has_gpu():
        return []
    return ["--gpus=all"] if engine == "docker" else ["--device=nvidia.com/gpu=all"]


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU; the Makefile checks in the same two ways."""
    if Path("/proc/driver/nvidia/version").exists():
        return True
    try:  # WSL2 has nvidia-smi but no /proc/driver/nvidia
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def image_digest(engine: str, image: str) -> str:
    """The id of a local image, which the report records; empty if there is no such image."""
    command = [engine, "image", "inspect", "--format={{.Id}}", image]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def fit_command(
    engine: str, target: str, variant: str, arguments: Sequence[str], runs: Path, interactive: bool = False
) -> list[str]:
    """The command that fine-tunes in a container, as the calling user, in the working folder read-only at /work.

    Args:
        engine: docker or podman.
        target: stage of the Dockerfile; ``offline`` runs without network.
        variant: cpu or cuda.
        arguments: those of ``recipes.fit``.
        runs: folder on this machine that the run writes to.
        interactive: attach the terminal, so that progress bars are shown.
    """
    image = image_name(target, variant)
    command = [engine, "run", "--rm", *(["--interactive", "--tty"] if interactive else [])]
    command += ["--init"] if engine == "docker" else []  # with podman it needs a separate package
    command += [*SEALED, "--shm-size=1g", *as_user(engine, calling_user())]
    command += ["--network=none"] if target == "offline" else []
    command += gpu_options(engine, variant)
    # With SELinux, this lets the container use the user's files without relabelling them.
    command += ["--security-opt=label=disable"] if engine == "podman" else []
    command += [
        f"--volume={runs}:/runs",
        "--volume=lightning-adafactor-huggingface:/cache/huggingface",
        "--volume=lightning-adafactor-triton:/cache/triton",
        f"--volume={Path.cwd()}:/work:ro",
        "--workdir=/work",
        f"--env=IMAGE_DIGEST={image_digest(engine, image)}",
    ]
    return [*command, image, *arguments]


def check_command(
    target: str,
    arguments: Sequence[str],
    runs: Path | None = None,
    user: str | None = None,
    entrypoint: str | None = None,
) -> list[str]:
    """The command that runs an image isolated: no network, a read-only root file system, no capabilities.

    With the variable CONTAINER_CHECK it runs the script named there, which builds and runs without an engine.

    Args:
        target: stage of the Dockerfile.
        arguments: those of ``recipes.fit``, or of ``entrypoint``.
        runs: folder on this machine that the run writes to; without it, the files of the run are lost.
        user: user and group to run as, ``uid:gid``; by default the image's own user.
        entrypoint: the program to run; by default ``recipes.fit``.

    Raises:
        NoEngineError: there is none, and no CONTAINER_CHECK.
    """
    script = os.environ.get("CONTAINER_CHECK")
    program = ["--entrypoint", entrypoint] if entrypoint else []
    if script:
        folder = ["-o", str(runs), "-e", "RUNS_DIR=/out"] if runs else []
        stated = [word for name, value in provenance().items() for word in ("--build-arg", f"{name}={value}")]
        options = [*stated, *folder, *(["-u", user] if user else []), *program]
        return [script, "--target", target, *options, str(ROOT), "--", *arguments]
    engine = find_engine()
    command = [engine, "run", "--rm", *SEALED, "--network=none", *(as_user(engine, user) if user else []), *program]
    command += ["--security-opt=label=disable"] if engine == "podman" else []
    command += [f"--volume={runs}:/runs"] if runs else []
    return [*command, image_name(target, "cpu"), *arguments]


def call(command: Sequence[str]) -> int:
    """Run a command to its end and return its exit status; Ctrl-C is left to the command."""
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue  # the command received it too, saves its checkpoint and ends


def main() -> int:
    """Parse the command line and run the command; the exit status is the engine's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", choices=("runtime", "offline"), default="offline", help="default: %(default)s")
    parser.add_argument("--variant", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("engine", help="print the container engine, or why there is none (exit status 69)")
    commands.add_parser("image", help="build the image; further arguments are options of the engine's build command")
    commands.add_parser("fit", help="fine-tune in the image; further arguments are those of recipes.fit")
    words = sys.argv[1:]
    # What follows these two belongs to another program and begins with an option, which argparse would parse itself.
    own = next((place + 1 for place, word in enumerate(words) if word in ("image", "fit")), len(words))
    options, arguments = parser.parse_args(words[:own]), words[own:]

    if options.command == "engine" and os.environ.get("CONTAINER_CHECK"):
        print(f"containers: {os.environ['CONTAINER_CHECK']}")
        return 0
    try:
        engine = find_engine()
        if options.command == "engine":
            check_base(engine)
    except NoEngineError as reason:
        print(
            f"Nothing was run: {reason}. Install docker or podman, or set the variable CONTAINER_CHECK to a script "
            "that builds and runs images (for make container-test).",
            file=sys.stderr,
        )
        return UNAVAILABLE
    if options.command == "engine":
        print(f"containers: {engine}")
        return 0
    if options.command == "image":
        return call(build_command(engine, options.target, options.variant, arguments))
    runs = Path(os.environ.get("RUNS_DIR") or "runs").absolute()
    runs.mkdir(parents=True, exist_ok=True)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return call(fit_command(engine, options.target, options.variant, arguments, runs, interactive=terminal))


if __name__ == "__main__":
    sys.exit(main())
