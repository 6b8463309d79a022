"""The job store: every question the dashboard, the worker and a run ask of the database, and every change.

A job goes  queued -> running -> (stopping ->) succeeded, failed or cancelled,  and from the last two back into
the queue when it is resumed. Each change names the states it may start from, in the same UPDATE, so that of two
writers only one moves a job.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Select, and_, delete, func, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from trainers.jobs.database import LOCK, database_url, open_database, unreachable, writing
from trainers.jobs.paths import confine, runs_folder
from trainers.jobs.tables import ALIVE, FINISHED, STATES, Event, Job, Metric, now

if TYPE_CHECKING:
    from trainers.config import Config

RESUMABLE = ("failed", "cancelled")


class Store:
    """The jobs of one database. Rows come back detached: read them freely, change them through the store.

    Args:
        url: an SQLAlchemy URL; default: ``FFN_DATABASE_URL``, else jobs.db in the folder of the runs.

    Raises (from any method too):
        DatabaseDown: if the database cannot be reached.
    """

    def __init__(self, url: str | None = None, *, patience: float = 10, pooled: bool = True):
        self.url = url or database_url()
        self.engine = open_database(self.url, patience=patience, pooled=pooled)
        self._writer = writing(self.engine)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._session(self.engine) as session:
            yield session

    @contextmanager
    def changing(self) -> Iterator[Session]:
        """One transaction that commits at the end, or changes nothing."""
        with self._session(self._writer) as session:
            yield session
            session.commit()

    @contextmanager
    def _session(self, engine) -> Iterator[Session]:
        try:
            with Session(engine, expire_on_commit=False) as session:
                yield session
        except DBAPIError as error:
            raise unreachable(self.engine, error) from error

    # --- questions

    def get(self, job_id: int) -> Job:
        """Raises KeyError if there is no such job."""
        with self.reading() as session:
            job = session.get(Job, job_id)
        if job is None:
            raise KeyError(f"there is no job {job_id}")
        return job

    def search(
        self,
        words: str = "",
        *,
        states: Collection[str] = STATES,
        archived: bool | None = False,
        limit: int | None = None,
        **fields: Collection[str],
    ) -> list[Job]:
        """Jobs, newest first.

        Args:
            words: each must occur in the run folder, model, data, method, recipe or error; ``#7`` is job 7.
            archived: only archived ones, or only others; None: both.
            fields: values of a column, as in ``model=["tsm_tiny"]``.
        """
        query = select(Job).where(Job.state.in_(states)).order_by(Job.id.desc()).limit(limit)
        if archived is not None:
            query = query.where(Job.archived == archived)
        for name, values in fields.items():
            query = query.where(getattr(Job, name).in_(values))
        for word in words.split():
            query = query.where(_mentions(word))
        return self._all(query)

    def values(self, field: str) -> list[str]:
        """The different values of a column such as ``model``, for a filter."""
        column = getattr(Job, field)
        return self._all(select(column).where(column.is_not(None)).distinct().order_by(column))

    def count(self) -> dict[str, int]:
        """Jobs in each state, archived ones apart."""
        query = select(Job.state, func.count()).where(Job.archived.is_(False)).group_by(Job.state)
        with self.reading() as session:
            found = {state: jobs for state, jobs in session.execute(query)}
        return {state: found.get(state, 0) for state in STATES}

    def events(self, job_id: int) -> list[Event]:
        return self._all(select(Event).where(Event.job_id == job_id).order_by(Event.id))

    def asked_to_stop(self, job: Job) -> datetime | None:
        """When a worker, this one or one before it, asked the running job to stop; None if none has yet."""
        return self._all(_signalled(job))[0]

    def series(
        self, job_id: int, names: Collection[str] = (), points: int = 500
    ) -> dict[tuple[str, int], list[tuple[int, float]]]:
        """The curves of a job: ``{("loss_ce", 16): [(step, value), ...]}``, frames 0 where they belong to none.

        A curve longer than ``points`` is averaged in that many equal pieces, by the database.
        """
        wanted = [Metric.job_id == job_id, *([Metric.name.in_(names)] if names else [])]
        first, last = func.min(Metric.step), func.max(Metric.step)
        curve = (Metric.name, Metric.frames)
        whole = select(*curve, first.label("first"), (last - first + 1).label("length"))
        whole = whole.where(*wanted).group_by(*curve).subquery().c
        piece = (Metric.step - whole.first) * points // whole.length
        query = (
            select(*curve, last, func.avg(Metric.value))
            .where(*wanted, Metric.name == whole.name, Metric.frames == whole.frames)
            .group_by(*curve, piece)
            .order_by(*curve, last)
        )
        curves: dict[tuple[str, int], list[tuple[int, float]]] = {}
        with self.reading() as session:
            for name, frames, step, value in session.execute(query):
                curves.setdefault((name, frames), []).append((step, value))
        return curves

    def latest(self, job_ids: Collection[int], name: str = "top1") -> dict[int, dict[int, float]]:
        """The newest value of a metric at each frame count: ``{job: {16: 61.2}}``."""
        newest = (
            select(Metric.job_id, Metric.frames, func.max(Metric.step).label("step"))
            .where(Metric.job_id.in_(job_ids), Metric.name == name)
            .group_by(Metric.job_id, Metric.frames)
            .subquery()
        )
        same = and_(*(getattr(Metric, key) == newest.c[key] for key in ("job_id", "frames", "step")))
        query = select(Metric).join(newest, same).where(Metric.name == name).order_by(Metric.frames)
        found: dict[int, dict[int, float]] = {job_id: {} for job_id in job_ids}
        for metric in self._all(query):
            found[metric.job_id][metric.frames] = metric.value
        return found

    def _all(self, query: Select) -> list:
        with self.reading() as session:
            return list(session.scalars(query))

    # --- what a person asks for

    def add(self, config: Config, *, devices: int = 0, nodes: int = 1, cluster: str = "local") -> Job:
        """Put a run in the queue.

        Args:
            devices: GPUs, per node; 0: the CPU.
            cluster: local (this machine's worker) or slurm.

        Raises:
            ValueError: if the configuration cannot be, or its folder belongs to a job that is not over.
        """
        config = config.resolved()
        if devices < 0 or nodes < 1 or (nodes > 1 and (cluster == "local" or devices == 0)):
            raise ValueError(
                f"{devices} GPUs on {nodes} nodes cannot be; several nodes need GPUs and a cluster"
            )
        if cluster not in ("local", "slurm"):
            raise ValueError(f"there is no cluster {cluster!r}; choose local or slurm")
        job = Job(state="queued", devices=devices, nodes=nodes, cluster=cluster, **described(config))
        with self.changing() as session:
            self._lock(session)
            _check_folder_is_free(session, job.out)
            session.add(job)
            session.flush()
            session.add(Event(job_id=job.id, kind="queued", text=""))
        return job

    def cancel(self, job_id: int) -> None:
        """Take a job from the queue, or ask its owner to stop it; a job that is over stays as it is."""
        with self.changing() as session:
            job = session.get(Job, job_id)
            on_cluster = job is not None and job.cluster_job is not None
            if not on_cluster and _move(session, job_id, ("queued",), "cancelled", finished=now()):
                session.add(Event(job_id=job_id, kind="cancelled", text="taken from the queue"))
            elif _move(session, job_id, ("queued", "running"), "stopping"):
                session.add(Event(job_id=job_id, kind="stop", text="asked to save and stop"))

    def resume(self, job_id: int) -> None:
        """Put a failed or cancelled job back into the queue; it goes on from its last checkpoint.

        Raises:
            ValueError: if it is not over, or has succeeded.
        """
        with self.changing() as session:
            self._lock(session)
            job = session.get(Job, job_id)
            if job is None or job.state not in RESUMABLE:
                state = "gone" if job is None else job.state
                raise ValueError(f"job {job_id} is {state}; only a failed or cancelled job can be resumed")
            _check_folder_is_free(session, job.out)
            again = {"error": None, "exit_code": None, "finished": None, "resumes": Job.resumes + 1}
            owner = {"pid": None, "pid_started": None, "cluster_job": None, "given": None}
            if _move(session, job_id, RESUMABLE, "queued", queued=now(), archived=False, **again, **owner):
                session.add(Event(job_id=job_id, kind="queued", text="to go on from its last checkpoint"))

    def archive(self, job_id: int, archived: bool = True) -> None:
        with self.changing() as session:
            session.execute(update(Job).where(Job.id == job_id).values(archived=archived))

    def delete(self, job_id: int, *, files: bool = False) -> None:
        """Forget a job that is over, with the ``files`` of its run folder too if asked.

        Raises:
            ValueError: if it is not over, or its files lie outside the folder of the runs.
        """
        job = self.get(job_id)
        folder = confine(job.out, runs_folder()) if files else None
        with self.changing() as session:
            if not session.execute(
                delete(Job).where(Job.id == job_id, Job.state.in_(FINISHED)).returning(Job.id)
            ).first():
                raise ValueError(f"job {job_id} is {job.state}; stop it before you delete it")
        if folder and folder.is_dir():
            shutil.rmtree(folder)

    # --- what the worker does

    def claim(self, host: str, gpus: Collection = (), cpu_jobs: int = 1) -> Job | None:
        """Take the next job of the queue that this host has devices for; it is running then.

        Jobs for GPUs and jobs for the CPU wait in line apart; in each line nobody overtakes, so that a job for
        many GPUs gets them. A job that asks for more GPUs than there are is left to other hosts.

        Its ``pid`` stays None until it is known, so that nobody takes another process for the job's.

        Args:
            gpus: every GPU of the host, as CUDA_VISIBLE_DEVICES names them; those that its running jobs hold
                are not given again.
            cpu_jobs: jobs for the CPU that may run at once.
        """
        with self.changing() as session:
            self._lock(session)
            held = session.scalars(
                select(Job.given).where(Job.host == host, Job.state.in_(ALIVE), Job.given.is_not(None))
            ).all()
            free = [gpu for gpu in gpus if gpu not in {used for given in held for used in given}]
            on_cpu = sum(not given for given in held)
            line = select(Job).where(Job.state == "queued", Job.cluster == "local").order_by(Job.queued, Job.id)
            heads = []
            if on_cpu < cpu_jobs:
                heads.append(session.scalar(line.where(Job.devices == 0).limit(1)))
            if free:
                heads.append(session.scalar(line.where(Job.devices.between(1, len(gpus))).limit(1)))
            heads = [job for job in heads if job and job.devices <= len(free)]
            if not heads:
                return None
            job = min(heads, key=lambda job: (job.queued, job.id))
            taken = {"host": host, "given": free[: job.devices], "started": now(), "heartbeat": now()}
            if not _move(session, job.id, ("queued",), "running", **taken):
                return None
            session.refresh(job)
            return job

    def claim_submission(self, job_id: int) -> bool:
        """Take a queued job to submit it to its cluster; False if another worker has."""
        where = (Job.id == job_id, Job.state == "queued", Job.cluster_job.is_(None))
        with self.changing() as session:
            taken = update(Job).where(*where).values(cluster_job="", heartbeat=now()).returning(Job.id)
            return session.execute(taken).first() is not None

    def claim_stop(self, job: Job, note: str) -> bool:
        """Whether the caller is the first to ask the job to stop: a second signal would end it at once."""
        with self.changing() as session:
            self._lock(session)
            first = session.scalar(_signalled(job)) is None
            if first:
                session.add(Event(job_id=job.id, kind="signal", text=note))
        return first

    def move(self, job_id: int, states: Iterable[str], to: str, note: str = "", **values) -> bool:
        """Move a job from one of ``states`` to another, with an event; False if it was in none of them."""
        if to in FINISHED:
            values.setdefault("finished", now())
        with self.changing() as session:
            moved = _move(session, job_id, states, to, **values)
            if moved:
                session.add(Event(job_id=job_id, kind=to, text=note))
        return moved

    def set(self, job_id: int, **values) -> None:
        """Change columns of a job, such as ``pid`` or ``heartbeat``."""
        with self.changing() as session:
            session.execute(update(Job).where(Job.id == job_id).values(**values))

    def seen(self, job_ids: Collection[int]) -> None:
        """These jobs are alive."""
        with self.changing() as session:
            session.execute(update(Job).where(Job.id.in_(job_ids)).values(heartbeat=now()))

    def note(self, job_id: int, kind: str, text: str, *, once: bool = False) -> None:
        """Add an event; ``once``: not if the newest event of the job says the same."""
        with self.changing() as session:
            newest = session.scalar(
                select(Event).where(Event.job_id == job_id).order_by(Event.id.desc()).limit(1)
            )
            if not (once and newest and (newest.kind, newest.text) == (kind, text)):
                session.add(Event(job_id=job_id, kind=kind, text=text))

    def _lock(self, session: Session) -> None:
        """One such transaction at a time. SQLite's have the write lock from their beginning."""
        if self.engine.dialect.name == "postgresql":
            session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def described(config: Config) -> dict:
    """The columns of a job that its configuration determines."""
    config = config.absolute()  # the worker may run in another folder
    text = config.to_json()
    shown = {name: json.loads(text)[name] for name in ("model", "data", "method", "recipe", "epochs")}
    return {"config": text, "command": config.command(), "out": str(config.out), **shown}


def save_metrics(session: Session, rows: list[dict]) -> None:
    """Write rows of :class:`Metric`; one that is there already takes the new value."""
    if not rows:
        return
    newest = {tuple(row[key] for key in ("job_id", "name", "frames", "step")): row for row in rows}
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(Metric)
    statement = statement.on_conflict_do_update(
        index_elements=["job_id", "name", "frames", "step"],
        set_={"value": statement.excluded.value, "epoch": statement.excluded.epoch},
    )
    session.connection().execute(statement, list(newest.values()))


def _move(session: Session, job_id: int, states: Iterable[str], to: str, **values) -> bool:
    where = (Job.id == job_id, Job.state.in_(tuple(states)))
    changed = session.execute(update(Job).where(*where).values(state=to, **values).returning(Job.id))
    return changed.first() is not None


def _signalled(job: Job) -> Select:
    query = select(func.min(Event.time)).where(Event.job_id == job.id, Event.kind == "signal")
    return query.where(Event.time >= job.started) if job.started else query


def _check_folder_is_free(session: Session, out: str) -> None:
    other = session.scalar(select(Job).where(Job.out == out, Job.state.in_(("queued", *ALIVE))).limit(1))
    if other:
        raise ValueError(f"{out} belongs to job {other.id}, which is {other.state}; choose another folder")


def _mentions(word: str):
    if word.startswith("#") and word[1:].isdigit():
        return Job.id == int(word[1:])
    columns = (Job.out, Job.model, Job.data, Job.method, Job.recipe, Job.error)
    return or_(*(column.icontains(word, autoescape=True) for column in columns))
