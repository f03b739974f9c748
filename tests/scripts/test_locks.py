"""How lock files are parsed, and that the one for images agrees with the others.

tests/test_packaging.py checks the hashes, the ranges in pyproject.toml and the imports.
"""

from pathlib import Path

from scripts.lock import pins

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"


def test_a_lock_file_is_parsed_with_versions_and_markers() -> None:
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


def test_images_and_tests_use_the_same_sbom_tool() -> None:
    sbom, dev, cuda = (pins((REQUIREMENTS / f"{name}.txt").read_text()) for name in ("sbom", "dev", "cuda"))
    assert sbom["cyclonedx-bom"] == dev["cyclonedx-bom"]
    known = {name: dev.get(name, set()) | cuda.get(name, set()) for name in sbom}
    for name, stated in sbom.items():
        assert versions(stated) <= versions(known[name]), name


def versions(stated: set[str]) -> set[str]:
    return {pin.partition(" ")[0] for pin in stated}
