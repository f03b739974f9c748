"""Jobs of SLURM: a run is requeued by a signal, and resumes when its job is started again.

SLURM starts the same command again, after ``scontrol requeue``, a preemption or the failure of a machine, and sets
``SLURM_RESTART_COUNT``. The run then resumes from the last checkpoint of the run that the same command of the same job
has begun. Lightning's own requeueing saves a second checkpoint, and looks for it in the folder of the new run.

Only modules of the standard library and the folders of runs are imported, for ``compare`` needs no torch.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from recipes.runs.folder import RunFolder, versions

FILE = "slurm_job.txt"
"""The file in a run's folder that names its job and its command."""
NOT_A_TASK = {"SLURM_JOB_NAME": "interactive"}
"""Lightning takes a process with this name of a job for one that srun has not started."""


def job_id() -> str | None:
    """The number of this job, with that of the task in an array; None outside of SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        return f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '0')}"
    return os.environ.get("SLURM_JOB_ID") or None


def note_job(run: Path) -> None:
    """Records in the folder of a run which job and command have begun it; nothing outside of SLURM."""
    if job_id() is not None:
        (run / FILE).write_text(_job_and_command(), encoding="utf-8")


def run_of_requeued_job(root: Path, name: str) -> Path | None:
    """The folder of the run to resume, if this job was started again and its command has saved a checkpoint.

    Args:
        root: Folder of all runs.
        name: Config name.
    """
    if job_id() is None or os.environ.get("SLURM_RESTART_COUNT", "0") in ("", "0"):
        return None
    for version in reversed(versions(root, name)):
        run = RunFolder(root, name, version).path
        try:
            same = (run / FILE).read_text(encoding="utf-8") == _job_and_command()
        except (OSError, ValueError):
            continue
        if same and any((run / "checkpoints").glob("*.ckpt")):
            return run
    return None


def requeue() -> None:
    """Asks SLURM to start this job again, and says so on standard error."""
    job = job_id() or ""
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        print(f"note: scontrol could not requeue job {job}: {reason}", file=sys.stderr)
        return
    print(f"note: job {job} is requeued; it resumes when it is started again", file=sys.stderr)


def for_children() -> Mapping[str, str]:
    """Environment variables for a run that this process starts: its processes are not tasks of this job's srun."""
    return NOT_A_TASK if "SLURM_NTASKS" in os.environ else {}


def _job_and_command() -> str:
    return f"{job_id()}\n{shlex.join(sys.argv)}\n"
