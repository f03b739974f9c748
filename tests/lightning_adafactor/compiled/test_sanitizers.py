"""Parity and step tests under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_adafactor.compiled import build
from tests.lightning_adafactor.compiled.available import REASON, needs_compiled

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g", "-O1")

RUN = """
import sys
from pathlib import Path
from lightning_adafactor.compiled import build, library
build.LIBRARY = Path(sys.argv[1])
assert isinstance(library.load(), library.Library), library.load()
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def libasan() -> str | None:
    """Where the compiler's AddressSanitizer is: it must be loaded before everything else."""
    if REASON is not None:
        return None
    command = [*build.find_compiler(), "-print-file-name=libasan.so"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return found if os.path.isabs(found) else None


@needs_compiled
@pytest.mark.skipif(libasan() is None, reason="the C compiler has no shared AddressSanitizer")
@pytest.mark.slow
@pytest.mark.parametrize(
    "tests",
    [
        ["tests/lightning_adafactor/test_parity.py", "-k", "compiled"],
        ["tests/lightning_adafactor/compiled/test_step.py", "-k", "equals_plain or any_problem or random_bits"],
    ],
    ids=["parity", "every kind of work"],
)
def test_sanitizers_find_nothing(tests: list[str], tmp_path: Path) -> None:
    target = build.build(tmp_path / "step.so", flags=SANITIZERS)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(libasan()),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "2",
    }
    command = [sys.executable, "-c", RUN, str(target), *tests]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert " passed" in run.stdout
