"""A job of SLURM that is started again goes on with its own run."""

from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from recipes.runs import slurm


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a job that was started again, and a command line."""
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr("sys.argv", ["fit.py", "--config", "cls.yaml"])
    return monkeypatch


def begun(root: Path, version: int, with_checkpoint: bool = True) -> Path:
    """The folder of a run that this job has begun."""
    run = root / "cls" / f"version_{version}"
    (run / "checkpoints").mkdir(parents=True)
    slurm.note_job(run)
    if with_checkpoint:
        (run / "checkpoints" / "last.ckpt").touch()
    return run


def test_the_newest_run_of_the_job_with_a_checkpoint_goes_on(job: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun(tmp_path, 0)
    newest = begun(tmp_path, 1)
    begun(tmp_path, 2, with_checkpoint=False)

    assert slurm.run_of_requeued_job(tmp_path, "cls") == newest


@pytest.mark.parametrize(
    ("name", "value"),
    [("SLURM_JOB_ID", "8"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_RESTART_COUNT", "0"), ("argv", "")],
    ids=["another job", "a task of an array", "a first start", "another command"],
)
def test_no_other_run_goes_on(name: str, value: str, job: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun(tmp_path, 0)
    if name == "argv":
        job.setattr("sys.argv", ["fit.py", "--config", "cls.yaml", "--seed_everything", "2"])
    else:
        job.setenv(name, value)

    assert slurm.run_of_requeued_job(tmp_path, "cls") is None


def test_a_run_outside_of_slurm_names_no_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)

    slurm.note_job(tmp_path)

    assert not list(tmp_path.iterdir())
    assert slurm.run_of_requeued_job(tmp_path, "cls") is None


def test_a_job_that_cannot_be_requeued_is_a_note_with_the_reason(
    job: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho Requested operation is disabled >&2\nexit 1\n", encoding="utf-8")
    scontrol.chmod(0o755)
    job.setenv("PATH", str(tmp_path), prepend=":")

    slurm.requeue()

    assert capsys.readouterr().err == "note: scontrol could not requeue job 7: Requested operation is disabled\n"


def test_the_runs_of_compare_are_no_tasks_of_srun(job: pytest.MonkeyPatch) -> None:
    job.setenv("SLURM_NTASKS", "1")
    job.setenv("SLURM_JOB_NAME", "wrap")
    assert SLURMEnvironment.detect()

    for name, value in slurm.for_children().items():
        job.setenv(name, value)

    assert not SLURMEnvironment.detect()
