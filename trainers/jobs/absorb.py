"""Bring what a run reported into the job store: from its memory, or from the file it left when it could not.

A record is plain data with a ``kind`` and a ``time``; the functions below say what each kind holds. Old records
may arrive late, after the job was resumed: their metrics count, their states do not.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from trainers.jobs.paths import runs_folder
from trainers.jobs.store import Store, save_metrics
from trainers.jobs.tables import FINISHED, Event, Job, Metric

UNSENT = ".unsent-metrics.jsonl"
SKEW = timedelta(seconds=30)  # between the clocks of two machines
LOST = "lost: its process ended without a word; resume it to go on from its last checkpoint"


def absorb(store: Store, records: list[dict], job_id: int | None, out: str) -> int | None:
    """Write records, in order and in one transaction, to the job of that number, else to that of the folder.

    Returns:
        the number of the job; None where there is none and no record begins one.
    """
    with store.changing() as session:
        job = _find(session, job_id, out)
        for record in records:
            if record["kind"] == "begin":
                job = _begin(session, job, **record)
            elif job:
                KINDS[record["kind"]](session, job, **record)
        return job and job.id


def _find(session: Session, job_id: int | None, out: str) -> Job | None:
    job = session.get(Job, job_id) if job_id else None
    return job or session.scalar(select(Job).where(Job.out == out).order_by(Job.id.desc()).limit(1))


def _begin(
    session: Session, job: Job | None, /, *, time: str, columns: dict, owner: dict, given: list | None, **_
) -> Job:
    """A process starts to train: a job the worker launched, one of this folder before, or a new one."""
    when = datetime.fromisoformat(time)
    if job is None:
        job = Job(created=when, queued=when, resumes=0, devices=len(given or ()), given=given)
        session.add(job)
    elif _late(job, when):
        return job
    elif job.state in FINISHED:  # resumed by hand
        job.resumes += 1
        job.given = given
    job.state = "stopping" if job.state == "stopping" else "running"
    job.error = job.exit_code = job.finished = None
    job.started = when
    for name, value in (columns | owner).items():
        setattr(job, name, value)
    session.flush()
    where = f"process {owner['pid']} on {owner['host']}"
    session.add(Event(job_id=job.id, time=when, kind="resumed" if job.resumes else "started", text=where))
    return job


def _rewind(session: Session, job: Job, /, *, step: int, **_) -> None:
    """The run goes on after ``step``: what an earlier process measured beyond it was not saved."""
    session.execute(delete(Metric).where(Metric.job_id == job.id, Metric.step > step))


def _metrics(
    session: Session,
    job: Job,
    /,
    *,
    time: str,
    rows: list,
    epoch: int,
    step: int,
    epochs_done: int,
    best: float | None = None,
    **_,
) -> None:
    """``rows`` of (name, frames, value), measured in ``epoch`` after ``step`` steps."""
    place = {"job_id": job.id, "epoch": epoch, "step": step}
    save_metrics(session, [place | {"name": n, "frames": f, "value": v} for n, f, v in rows])
    if _late(job, datetime.fromisoformat(time)):
        return
    job.step, job.epoch = step, epochs_done
    if best is not None:
        job.best = best if job.best is None else max(best, job.best)


def _alive(session: Session, job: Job, /, *, time: str, **_) -> None:
    """The process lives; a job that was taken for lost (its database was away) runs again."""
    when = datetime.fromisoformat(time)
    if _late(job, when):
        return
    if job.error == LOST:
        job.state, job.error, job.finished = "running", None, None
    job.heartbeat = when


def _over(
    session: Session, job: Job, /, *, time: str, state: str, note: str, requeued: bool = False, **_
) -> None:
    """The process is about to end: succeeded, failed with ``note``, or stopped on request."""
    when = datetime.fromisoformat(time)
    if _late(job, when):
        return
    if state == "cancelled" and requeued and job.state != "stopping":
        state = "queued"  # the cluster's time limit: it starts again by itself
    job.state, job.error = state, note if state == "failed" else None
    if state in FINISHED:
        job.finished = when
    session.add(Event(job_id=job.id, time=when, kind=state, text=note))


KINDS = {"rewind": _rewind, "metrics": _metrics, "alive": _alive, "over": _over}


def _late(job: Job, when: datetime) -> bool:
    """Whether a later process has started since, or the job waits to be started again."""
    if job.state == "queued":
        return when < job.queued - SKEW
    return bool(job.started) and when < job.started


def keep(folder: Path, records: Iterable[dict], job_id: int | None) -> None:
    """Append records to the run folder's file of what the database has not got. Raises OSError."""
    lines = "".join(json.dumps(record | {"job": job_id}) + "\n" for record in records)
    while True:
        with open(folder / UNSENT, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else somebody has just sent and removed it
                file.write(lines)
                return


def send_kept(store: Store, folder: Path, job_id: int | None = None) -> int | None:
    """Bring the file that :func:`keep` wrote into the store and remove it; the number of its job.

    Raises:
        DatabaseDown: if that fails; the file stays.
    """
    path = folder / UNSENT
    try:
        file = open(path, "r+")  # noqa: SIM115
    except FileNotFoundError:
        return job_id
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        records = list(_read(file))
        if records:
            known = next((record["job"] for record in reversed(records) if record["job"]), None)
            job_id = absorb(store, records, job_id or known, str(folder.resolve()))
        path.unlink(missing_ok=True)
        return job_id


def _read(lines: Iterable[str]) -> Iterable[dict]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue  # the last line of a process that was killed as it wrote


def send_all_kept(store: Store) -> None:
    """Bring in what runs left behind, in the folder of the runs and in those of the jobs."""
    folders = {path.parent for path in runs_folder().glob(f"*/{UNSENT}")}
    folders |= {Path(job.out) for job in store.search(archived=None) if (Path(job.out) / UNSENT).exists()}
    for folder in folders:
        send_kept(store, folder)
