"""How a trial ends, and the reason if it did not finish."""

import sys
from pathlib import Path

import pytest

from recipes.compare import plan, runs
from recipes.compare.command import plan_of
from recipes.compare.plan import Trial


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """A training of which a test says what its process does."""
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("data: {}\n", encoding="utf-8")
    plan = plan_of(["--config", "some.yaml", "--optimizers", "adamw", "--out", "out"])
    return plan.first_trials(plan.choices[0])[0]


def end_of(trial: Trial) -> runs.Outcome:
    """How a trial ends that is started now."""
    run = runs.Run(trial)
    run.process.wait(60)
    outcome = run.outcome()
    assert outcome is not None
    return outcome


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys; sys.exit('error: lr is too high')", "lr is too high"),
        ("import sys; sys.exit('[rank: 1] error: lr is too high')", "lr is too high"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 9)", runs.KILLED),
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11 (Segmentation fault)"),
        ("import sys; print('half way'); sys.exit(3)", "exit status 3, after: half way"),
        ("", "it succeeded but wrote no report.json: only modules that are a recipes.recipe.Recipe have one"),
    ],
)
def test_the_reason_is_the_error_message_the_exception_or_the_signal(
    program: str, reason: str, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", program])
    outcome = end_of(trial)
    assert outcome.report is None
    assert outcome.reason == reason


def test_the_reason_is_not_that_of_an_earlier_attempt(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", "import sys; sys.exit('error: the first')"])
    end_of(trial)
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", "import sys; sys.exit(3)"])
    assert end_of(trial).reason == "exit status 3"
    assert "the first" in (trial.folder / "log.txt").read_text(encoding="utf-8")


def test_the_last_line_of_the_log_is_shown_during_the_run(trial: Trial) -> None:
    trial.folder.mkdir(parents=True)
    (trial.folder / "log.txt").write_bytes(b"begin\nepoch 1:  5%\repoch 1: 10% ###\n\n")
    assert runs.last_line(trial) == "epoch 1: 10% ###"


def test_a_truncated_report_does_not_count(trial: Trial) -> None:
    version = trial.folder / "some" / "version_0"
    version.mkdir(parents=True)
    (version / "report.json").write_text('{"metrics": {', encoding="utf-8")
    assert runs.finished(trial) is None
    (version / "report.json").write_text('{"metrics": {}}', encoding="utf-8")
    outcome = runs.finished(trial)
    assert outcome is not None
    assert outcome.kept


def test_the_report_of_a_reproduction_does_not_count(trial: Trial) -> None:
    for version in (0, 1, 2):
        folder = trial.folder / "some" / f"version_{version}"
        folder.mkdir(parents=True)
        if version:  # the first attempt did not finish
            (folder / "report.json").write_text(f'{{"metrics": {{}}, "steps": {version}}}', encoding="utf-8")
    outcome = runs.finished(trial)
    assert outcome is not None
    assert outcome.report is not None
    assert outcome.report["steps"] == 1


@pytest.mark.parametrize("keep", [False, True])
def test_a_new_attempt_deletes_the_weights_of_interrupted_ones(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("some.yaml").write_text("data: {}\n", encoding="utf-8")
    words = ["--config", "some.yaml", "--optimizers", "adamw", "--out", "out", *(["--keep-models"] if keep else [])]
    plan_ = plan_of(words)
    trial = plan_.first_trials(plan_.choices[0])[0]
    saved = trial.folder / "some" / "version_0" / "checkpoints" / "last.ckpt"
    saved.parent.mkdir(parents=True)
    saved.touch()
    monkeypatch.setattr(plan, "FIT", [sys.executable, "-c", ""])

    end_of(trial)

    assert saved.exists() is keep
