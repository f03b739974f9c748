"""Look the locked packages up in a database of known vulnerabilities with pip-audit; ``make audit`` runs it.

Exit status: 0, none is known; 1, some are, and a table names them; 69, the database could not be asked.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# cpu.txt and torch-cpu.txt pin what cuda.txt pins, and databases know torch 2.13.0, not 2.13.0+cpu.
LOCKS = ("cuda.txt", "8bit.txt", "assets.txt", "sbom.txt", "dev.txt")
UNAVAILABLE = 69  # sysexits.h: a service is unavailable


def pip_audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip-audit on the locks; their hashes stand in for resolving, so nothing is downloaded or installed."""
    locks = (f"--requirement={ROOT / 'requirements' / lock}" for lock in LOCKS)
    command = [sys.executable, "-m", "pip_audit", *locks, "--require-hashes", "--disable-pip", "--format=json"]
    return subprocess.run([*command, *arguments], text=True, capture_output=True, check=False)


def unavailable(why: str) -> int:
    """Say that nothing was audited, and why; return the exit status for that."""
    print(
        f"Nothing was audited: {why}. Run it where pypi.org can be reached, or name another database: "
        'make audit ARGS="--vulnerability-service osv"',
        file=sys.stderr,
    )
    return UNAVAILABLE


def report(packages: list[dict[str, Any]]) -> int:
    """Print what pip-audit has found; return the exit status.

    Args:
        packages: the ``dependencies`` of pip-audit's JSON: name, and either version and vulns, or skip_reason.
    """
    unknown = [one["name"] for one in packages if "skip_reason" in one]
    audited = [one for one in packages if "skip_reason" not in one]
    if not audited:
        return unavailable(f"the database knows none of the {len(packages)} locked packages")
    for package in audited:
        for found in package["vulns"]:
            mended = ", ".join(found["fix_versions"]) or "no release yet"
            print(f"{package['name']} {package['version']}: {found['id']}, mended in {mended}")
    if unknown:
        print(f"Not in the database: {', '.join(sorted(unknown))}.")
    vulnerable = {one["name"] for one in audited if one["vulns"]}
    print(f"{len(audited)} locked packages audited, {len(vulnerable)} with known vulnerabilities.")
    return 1 if vulnerable else 0


def main() -> int:
    """Audit the locks; further arguments are pip-audit's."""
    run = pip_audit(*sys.argv[1:])
    try:
        packages = json.loads(run.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return unavailable((run.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1])
    return report(packages)


if __name__ == "__main__":
    sys.exit(main())
