"""Check the locked packages for known vulnerabilities with pip-audit; ``make audit`` runs it.

Exit status: 0, none is known; 1, some are known and are listed; 69, the database is not available.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# cpu.txt and torch-cpu.txt pin the same versions as cuda.txt, and databases list torch 2.13.0, not 2.13.0+cpu.
LOCKS = ("cuda.txt", "8bit.txt", "optimizers.txt", "assets.txt", "sbom.txt", "dev.txt")
UNAVAILABLE = 69  # sysexits.h: a service is unavailable


def pip_audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pip-audit on the lock files; they have hashes, so nothing is resolved, downloaded or installed."""
    locks = (f"--requirement={ROOT / 'requirements' / lock}" for lock in LOCKS)
    command = [sys.executable, "-m", "pip_audit", *locks, "--require-hashes", "--disable-pip", "--format=json"]
    return subprocess.run([*command, *arguments], text=True, capture_output=True, check=False)


def unavailable(reason: str) -> int:
    """Print that nothing was audited, with the reason; return the exit status."""
    print(
        f"Nothing was audited: {reason}. Run it where pypi.org can be reached, or name another database: "
        'make audit ARGS="--vulnerability-service osv"',
        file=sys.stderr,
    )
    return UNAVAILABLE


def report(packages: list[dict[str, Any]]) -> int:
    """Print the result of pip-audit; return the exit status.

    Args:
        packages: the ``dependencies`` of pip-audit's JSON: name, and either version and vulns, or skip_reason.
    """
    unknown = [one["name"] for one in packages if "skip_reason" in one]
    audited = [one for one in packages if "skip_reason" not in one]
    if not audited:
        return unavailable(f"the database has none of the {len(packages)} locked packages")
    for package in audited:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no release yet"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    if unknown:
        print(f"Not in the database: {', '.join(sorted(unknown))}.")
    vulnerable = {one["name"] for one in audited if one["vulns"]}
    print(f"{len(audited)} locked packages audited, {len(vulnerable)} with known vulnerabilities.")
    return 1 if vulnerable else 0


def main() -> int:
    """Audit the lock files; further arguments are passed to pip-audit."""
    run = pip_audit(*sys.argv[1:])
    try:
        packages = json.loads(run.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return unavailable((run.stderr.strip().splitlines() or ["pip-audit printed nothing"])[-1])
    return report(packages)


if __name__ == "__main__":
    sys.exit(main())
