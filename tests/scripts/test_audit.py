"""The report of an audit of the lock files; no answer is never reported as no vulnerabilities."""

from subprocess import CompletedProcess
from typing import Any

import pytest

from scripts import audit

CLEAN: dict[str, Any] = {"name": "torch", "version": "2.13.0", "vulns": []}
BAD: dict[str, Any] = {"name": "six", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
UNKNOWN: dict[str, Any] = {"name": "mine", "skip_reason": "not found"}


def test_a_clean_audit_prints_the_number_of_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.report([CLEAN, UNKNOWN]) == 0
    said = capsys.readouterr().out
    assert "1 locked packages audited, 0 with known vulnerabilities" in said
    assert "Not in the database: mine." in said


def test_a_known_vulnerability_is_named_with_the_release_that_fixes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.report([CLEAN, BAD]) == 1
    assert "six 1.0: PYSEC-1, fixed in 1.1" in capsys.readouterr().out


def test_a_database_without_the_packages_has_audited_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.report([UNKNOWN]) == audit.UNAVAILABLE
    assert "Nothing was audited: the database has none of the 1 locked packages" in capsys.readouterr().err


def test_an_unreachable_database_is_reported_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = CompletedProcess([], 1, stdout="", stderr="Traceback\nConnectionError: no route\n")
    monkeypatch.setattr(audit, "pip_audit", lambda *arguments: failed)
    monkeypatch.setattr("sys.argv", ["audit.py"])
    assert audit.main() == audit.UNAVAILABLE
    assert "Nothing was audited: ConnectionError: no route" in capsys.readouterr().err


def test_every_lock_file_is_audited_except_duplicates() -> None:
    locks = {path.name for path in (audit.ROOT / "requirements").glob("*.txt")}
    assert locks - set(audit.LOCKS) == {"cpu.txt", "torch-cpu.txt"}
