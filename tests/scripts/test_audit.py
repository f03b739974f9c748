"""What an audit of the locks says, and that silence is never taken for a clean bill."""

from subprocess import CompletedProcess
from typing import Any

import pytest

from scripts import audit

CLEAN: dict[str, Any] = {"name": "torch", "version": "2.13.0", "vulns": []}
BAD: dict[str, Any] = {"name": "six", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
UNKNOWN: dict[str, Any] = {"name": "mine", "skip_reason": "not found"}


def test_a_clean_audit_says_how_much_was_audited(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.report([CLEAN, UNKNOWN]) == 0
    said = capsys.readouterr().out
    assert "1 locked packages audited, 0 with known vulnerabilities" in said
    assert "Not in the database: mine." in said


def test_a_known_vulnerability_is_named_with_the_release_that_mends_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.report([CLEAN, BAD]) == 1
    assert "six 1.0: PYSEC-1, mended in 1.1" in capsys.readouterr().out


def test_a_database_that_knows_nothing_has_audited_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.report([UNKNOWN]) == audit.UNAVAILABLE
    assert "Nothing was audited: the database knows none of the 1 locked packages" in capsys.readouterr().err


def test_a_database_out_of_reach_is_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = CompletedProcess([], 1, stdout="", stderr="Traceback\nConnectionError: no route\n")
    monkeypatch.setattr(audit, "pip_audit", lambda *arguments: failed)
    monkeypatch.setattr("sys.argv", ["audit.py"])
    assert audit.main() == audit.UNAVAILABLE
    assert "Nothing was audited: ConnectionError: no route" in capsys.readouterr().err


def test_every_lock_is_audited_but_those_that_another_repeats() -> None:
    locks = {path.name for path in (audit.ROOT / "requirements").glob("*.txt")}
    assert locks - set(audit.LOCKS) == {"cpu.txt", "torch-cpu.txt"}
