"""How lock files are read, and that the one for images agrees with the others.

That every pin has a hash, that the locks satisfy pyproject.toml and that imports are declared: tests/test_packaging.py.
"""

from pathlib import Path

from scripts.lock import pins

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"


def test_a_lock_is_read_with_versions_and_markers() -> None:
    lock = """\
# a comment
six==1.17.0 ; python_full_version < '3.11' \\
    --hash=sha256:00
    # via python-dateutil
numpy==2.2.6 ; python_full_version < '3.11' \\
    --hash=sha256:00
numpy==2.4.6 ; python_full_version >= '3.11' \\
    --hash=sha256:00
rich==14.0.0 \\
    --hash=sha256:00 \\
    --hash=sha256:01
"""
    assert pins(lock) == {
        "six": {"six==1.17.0 ; python_full_version < '3.11'"},
        "numpy": {"numpy==2.2.6 ; python_full_version < '3.11'", "numpy==2.4.6 ; python_full_version >= '3.11'"},
        "rich": {"rich==14.0.0"},
    }


def test_the_tool_that_lists_an_image_is_the_one_that_the_tests_use() -> None:
    sbom, dev, cuda = (pins((REQUIREMENTS / f"{name}.txt").read_text()) for name in ("sbom", "dev", "cuda"))
    assert sbom["cyclonedx-bom"] == dev["cyclonedx-bom"]
    known = {name: dev.get(name, set()) | cuda.get(name, set()) for name in sbom}
    for name, stated in sbom.items():
        assert versions(stated) <= versions(known[name]), name


def versions(stated: set[str]) -> set[str]:
    return {pin.partition(" ")[0] for pin in stated}
