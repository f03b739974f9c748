"""Builds the compiled step: ``python -m lightning_adafactor.compiled.build``, with any C compiler, in a few seconds.

The passes are compiled once for each instruction set, the rest once; the instruction set is chosen at run time. The
library is written beside this file, contains a digest of its sources (a library that does not match them is not used),
and links only to the C library.

This module needs only Python: ``setup.py`` and ``scripts/install.py`` run it before anything is installed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = FOLDER / "step.so"
SOURCES = sorted((FOLDER / "source").glob("*.[ch]"))

FLAGS = (
    "-std=c11",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # no fused multiply-add: the same bits from every instruction set
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",  # vectors wider than the baseline's registers are never passed between files
    "-Wno-unknown-warning-option",
)
INSTRUCTION_SETS = {
    "baseline": (),
    "avx2": ("-mavx2",),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"),
}
"""Options of the compiler by instruction set, on x86-64; elsewhere there is only the baseline (NEON on ARM)."""


class BuildError(Exception):
    """The library could not be built; the message is one sentence."""


def digest() -> str:
    """A digest of the sources and of the compiler's options."""
    summed = hashlib.sha256(repr((FLAGS, INSTRUCTION_SETS)).encode())
    for source in SOURCES:
        summed.update(source.name.encode() + b"\0" + source.read_bytes())
    return summed.hexdigest()[:16]


def find_compiler() -> list[str]:
    """The command of the C compiler: ``CC``, or the first of cc, gcc and clang.

    Raises:
        BuildError: There is none.
    """
    if sys.platform == "win32":
        raise BuildError("the compiled step is not supported on Windows")
    given = shlex.split(os.environ.get("CC", ""))
    for command in (given,) if given else (["cc"], ["gcc"], ["clang"]):
        if shutil.which(command[0]):
            return command
    raise BuildError(
        f"CC names {given[0]!r}, which is not installed" if given else "no C compiler (cc, gcc or clang) is installed"
    )


def build(target: Path = LIBRARY, *, flags: Sequence[str] = ()) -> Path:
    """Compiles and links the library.

    Args:
        target: Path of the library; an existing one is replaced atomically.
        flags: Further options of the compiler and the linker, such as ``-fsanitize=address``.

    Returns:
        ``target``.

    Raises:
        BuildError: There is no compiler, or it failed.
    """
    compiler = find_compiler()
    x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
    passes = INSTRUCTION_SETS if x86 else {"baseline": ()}
    several = ["-DSEVERAL_INSTRUCTION_SETS"] if x86 else []
    with tempfile.TemporaryDirectory() as temporary, concurrent.futures.ThreadPoolExecutor() as threads:
        folder = Path(temporary)
        commands = {
            folder / "schedule.o": [f'-DDIGEST="{digest()}"', *several, "-c", str(FOLDER / "source" / "schedule.c")]
        }
        for name, options in passes.items():
            source = str(FOLDER / "source" / "passes.c")
            commands[folder / f"{name}.o"] = [*options, f"-DRUN=run_{name}", "-c", source]
        jobs = [
            threads.submit(_run, [*compiler, *FLAGS, *flags, *options, "-o", str(output)])
            for output, options in commands.items()
        ]
        for job in jobs:
            job.result()
        linked = folder / "step.so"
        _run([*compiler, "-shared", *flags, *map(str, commands), "-o", str(linked), "-lm"])
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copy(linked, beside)
        os.replace(beside, target)
    return target


def _run(command: list[str]) -> None:
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"the C compiler does not run: {error}") from None
    if run.returncode:
        complaint = next((line for line in run.stderr.splitlines() if "error" in line), run.stderr.strip())
        raise BuildError(f"the C compiler failed ({shlex.join(command)}): {complaint}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds the library beside this file.

    Args:
        arguments: The command line, without the program's name; None for ``sys.argv``.

    Returns:
        The exit code: 0, or 2 if the library could not be built and is not optional.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lightning_adafactor.compiled.build", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--optional", action="store_true", help="exit with 0 if it cannot be built")
    options = parser.parse_args(arguments)
    try:
        build()
    except BuildError as error:
        print(
            f"The optimizer's step was not compiled: {error}. On CPUs it is taken in plain torch operations, "
            "which is slower; install a C compiler (Debian, Ubuntu: apt install gcc libc6-dev) and run "
            f"{shlex.join([sys.executable, '-m', 'lightning_adafactor.compiled.build'])}.",
            file=sys.stderr,
        )
        return 0 if options.optional else 2
    print(f"The optimizer's step for CPUs is compiled: {LIBRARY}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
