"""The tables of the job store: jobs, their metrics and their events."""

from __future__ import annotations

from datetime import datetime, timezone

from sqlalchemy import JSON, BigInteger, DateTime, Double, ForeignKey, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

ALIVE = ("running", "stopping")
FINISHED = ("succeeded", "failed", "cancelled")
STATES = ("queued", *ALIVE, *FINISHED)


def now() -> datetime:
    return datetime.now(timezone.utc)


class Utc(TypeDecorator):
    """Aware times in UTC on every database (SQLite keeps no time zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect) -> datetime | None:
        return value and value.astimezone(timezone.utc)

    def process_result_value(self, value: datetime | None, dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(timezone.utc) if value.tzinfo else value.replace(tzinfo=timezone.utc)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: Utc, float: Double(), list: JSON(none_as_null=True)}  # noqa: RUF012


class Job(Base):
    """A training run: what it is, where it runs, how far it is and how it ended."""

    __tablename__ = "job"
    __table_args__ = (Index("job_queue", "state", "queued"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    """one of STATES"""

    config: Mapped[str] = mapped_column(Text)
    """exactly ``Config.to_json()``"""
    command: Mapped[list]
    """the arguments after ``python -m trainers.run``"""
    out: Mapped[str] = mapped_column(Text, index=True)
    """absolute path of the run folder"""
    model: Mapped[str] = mapped_column(Text)
    data: Mapped[str] = mapped_column(Text)
    method: Mapped[str] = mapped_column(Text)
    recipe: Mapped[str | None] = mapped_column(Text)

    cluster: Mapped[str] = mapped_column(String(16), default="local")
    """local or slurm"""
    cluster_job: Mapped[str | None] = mapped_column(Text)
    """the cluster's own id of the job; empty while it is being submitted"""
    devices: Mapped[int] = mapped_column(default=0)
    """GPUs asked for (per node); 0: the CPU"""
    nodes: Mapped[int] = mapped_column(default=1)
    given: Mapped[list | None]
    """the GPUs it holds, as CUDA_VISIBLE_DEVICES names them; None: started by hand on the CPU"""

    host: Mapped[str | None] = mapped_column(Text)
    pid: Mapped[int | None] = mapped_column(BigInteger)
    """the process that owns the job: the run (its launcher, where it has several processes)"""
    pid_started: Mapped[float | None]
    """start time of that process, in seconds since 1970: a process id alone may be somebody else's by now"""
    heartbeat: Mapped[datetime | None]
    """when the owner was last seen alive"""

    epoch: Mapped[int] = mapped_column(default=0)
    """epochs done"""
    epochs: Mapped[int] = mapped_column(default=0)
    step: Mapped[int] = mapped_column(BigInteger, default=0)
    """steps done, of all epochs together"""
    steps: Mapped[int] = mapped_column(BigInteger, default=0)
    """steps of the whole run"""
    best: Mapped[float | None]
    """best top-1 accuracy in percent, the mean over the training frequencies"""

    error: Mapped[str | None] = mapped_column(Text)
    exit_code: Mapped[int | None]
    created: Mapped[datetime] = mapped_column(default=now)
    queued: Mapped[datetime] = mapped_column(default=now)
    """last time it entered the queue, which is its place there"""
    started: Mapped[datetime | None]
    """last start; a resumed job has started again"""
    finished: Mapped[datetime | None]
    resumes: Mapped[int] = mapped_column(default=0)
    archived: Mapped[bool] = mapped_column(default=False)

    @property
    def progress(self) -> float:
        """Part of the steps done, 0 to 1."""
        return min(self.step / self.steps, 1.0) if self.steps else 0.0


class Metric(Base):
    """One number of a job. The key is natural, so that writing a row twice changes nothing."""

    __tablename__ = "metric"
    __table_args__ = ({"sqlite_with_rowid": False},)

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    """loss_ce, loss_kl, lr: per step; ce, kl, top1, top5, gap, seconds: per epoch"""
    frames: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """the frame count it belongs to; 0: to none"""
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """steps done so far, of all epochs together"""
    epoch: Mapped[int]
    """the epoch it was measured in, from 1"""
    value: Mapped[float]


class Event(Base):
    """Something that happened to a job, for people to read."""

    __tablename__ = "event"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), index=True)
    time: Mapped[datetime] = mapped_column(default=now)
    kind: Mapped[str] = mapped_column(String(16))
    """queued, waits, submitted, started, resumed, stop (asked for), signal (sent), or a final state"""
    text: Mapped[str] = mapped_column(Text, default="")
