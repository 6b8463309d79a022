"""How a job becomes a process: its command, its environment, its log. No shell takes part."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainers.jobs.processes import marks
from trainers.jobs.tables import Job

LOG = "log.txt"


def command(job: Job, launcher: list[str] | None = None) -> list[str]:
    """The command of a job: it starts, or goes on where its folder holds a run. Several GPUs take torchrun.

    Args:
        launcher: torchrun's options where the job runs on several nodes.
    """
    if launcher is None and job.devices > 1:
        launcher = ["--standalone"]
    torchrun = ["-m", "torch.distributed.run", *launcher, f"--nproc-per-node={job.devices}"] if launcher else []
    return [sys.executable, *torchrun, "-m", "trainers.run", *job.command, "--resume", "auto"]


def environment(job: Job, url: str) -> dict[str, str]:
    """This process's environment, with the job's marks and the GPUs it was given (none: the CPU)."""
    gpus = ",".join(map(str, job.given or ()))
    return os.environ | marks(job.id, url) | {"CUDA_VISIBLE_DEVICES": gpus, "PYTHONUNBUFFERED": "1"}


def start(job: Job, url: str) -> subprocess.Popen:
    """Start a job in a session of its own, so that it outlives this process; it writes OUT/log.txt.

    Raises:
        OSError: if its folder cannot be written.
    """
    folder = Path(job.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "a") as log:
            log.write(f"$ python {' '.join(command(job)[1:])}\n")
            log.flush()
            return subprocess.Popen(
                command(job),
                env=environment(job, url),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        why = f"{error.strerror or error}; free some space there or choose another folder"
        raise OSError(f"the run folder {folder} cannot be written: {why}") from error


def last_line(job: Job) -> str:
    """The last line of a job's log, which is the one sentence of a run that failed; "" if there is none."""
    try:
        with open(Path(job.out) / LOG, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            lines = log.read().decode(errors="replace").replace("\0", "").replace("\r", "\n").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
