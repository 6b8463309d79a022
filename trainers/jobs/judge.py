"""How a job ended, where it did not say so itself."""

from __future__ import annotations

import signal
from pathlib import Path

from trainers.jobs import launch
from trainers.jobs.absorb import LOST
from trainers.jobs.tables import Job

SAVED = 75  # exit code of a run that was stopped and has saved its state


def judge(job: Job, code: int | None) -> tuple[str, str]:
    """Its state and why; ``code`` None: nobody knows the exit code."""
    if code == 0:
        return "succeeded", ""
    if job.state == "stopping" or code == SAVED:
        return "cancelled", "stopped" if code == SAVED else "stopped before it saved; it resumes further back"
    if code is None:
        results = Path(job.out) / "results.json"
        done = job.started and results.exists() and results.stat().st_mtime > job.started.timestamp()
        return ("succeeded", "") if done else ("failed", LOST)
    if code < 0:
        return "failed", f"killed by {signal.Signals(-code).name}; resume it to go on from its last checkpoint"
    return "failed", launch.last_line(job) or f"ended with exit code {code}"
