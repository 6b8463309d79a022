"""The processes of a job on this machine: which they are, whether they live, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import psutil

from trainers.jobs.tables import Job

SAME = 2.0  # seconds: a start time is computed from the machine's, which its clock may shift a little


def find(pid: int | None, pid_started: float | None) -> psutil.Process | None:
    """The process of that id if it is still the one that started then, and not over."""
    if pid is None or pid_started is None:
        return None
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if abs(process.create_time() - pid_started) < SAME and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def marks(job_id: int, url: str) -> dict[str, str]:
    """The environment that every process of a job inherits, whatever group or session it moves to."""
    return {"FFN_JOB_ID": str(job_id), "FFN_DATABASE_URL": url}


def marked(job: Job, url: str) -> list[psutil.Process]:
    """Living processes that carry the job's marks, the oldest first."""
    wanted, found = marks(job.id, url).items(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # another user's, or just over
            if process.status() != psutil.STATUS_ZOMBIE and wanted <= process.environ().items():
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def family(job: Job, url: str) -> list[psutil.Process]:
    """Every living process of a job: its owner, what that started, and what carries its marks."""
    found = marked(job, url)
    if owner := find(job.pid, job.pid_started):
        found.append(owner)
        with contextlib.suppress(psutil.Error):
            found += owner.children(recursive=True)
    return [process for process in set(found) if process.pid != os.getpid()]


def kill(processes: list[psutil.Process]) -> None:
    """End processes at once, and wait until they are over."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    survivors(processes, 5)


def survivors(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that still live after at most so long. (psutil's wait would take a child's exit code.)"""
    deadline = time.monotonic() + seconds
    while (living := [process for process in processes if _lives(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return living


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
