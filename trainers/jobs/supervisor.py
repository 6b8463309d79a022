"""Keeps the jobs of this machine true: starts the next ones, stops those that should, notes how each ended."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import psutil

from trainers.jobs import launch, processes
from trainers.jobs.absorb import LOST, send_all_kept, send_kept
from trainers.jobs.judge import judge
from trainers.jobs.slurm import Slurm
from trainers.jobs.store import Store
from trainers.jobs.tables import ALIVE, FINISHED, Job, now

HEARTBEAT = 5.0
ENDING, LAUNCHING = 3.0, 30.0  # seconds in which another worker of this host may still see to a job
SILENT = timedelta(minutes=5)  # a job on another host whose heartbeat is older is lost


class Supervisor:
    """One worker's view of the jobs on its host. Only :meth:`tick` acts; call it about once a second.

    Args:
        gpus: the GPUs of this host, as CUDA_VISIBLE_DEVICES names them.
        cpu_jobs: jobs for the CPU that may run at once.
        grace: seconds a job has to save its state when it is asked to stop.
    """

    def __init__(self, store: Store, gpus: Sequence = (), cpu_jobs: int = 1, grace: float = 60.0):
        self.store, self.gpus, self.cpu_jobs, self.grace = store, gpus, cpu_jobs, grace
        self.host = socket.gethostname()
        self._slurm = Slurm(store, grace)
        self._children: dict[int, subprocess.Popen] = {}
        self._missing: dict[int, float] = {}
        self._beat_at = 0.0

    def tick(self) -> None:
        for job_id, child in list(self._children.items()):
            if (code := child.poll()) is not None:
                with contextlib.suppress(KeyError):  # deleted meanwhile
                    self._over(self.store.get(job_id), code)
                del self._children[job_id]
        here = self.store.search(states=ALIVE, host=[self.host], cluster=["local"], archived=None)
        alive = [job for job in here if self._is_alive(job)]
        for job in alive:
            if job.state == "stopping":
                self._stop(job)
        if time.monotonic() >= self._beat_at:
            self._beat_at = time.monotonic() + HEARTBEAT
            self.store.seen([job.id for job in alive])
            self._lose_silent()
            send_all_kept(self.store)
        self._start_next()
        self._slurm.tick()

    # --- starting

    def _start_next(self) -> None:
        if not self.store.count()["queued"]:
            return
        while job := self.store.claim(self.host, self.gpus, self.cpu_jobs):
            self._start(job)
        for job in self.store.search(states=["queued"], cluster=["local"]):
            if job.devices > len(self.gpus):
                there = f"{self.host} has {len(self.gpus)}"
                self.store.note(job.id, "waits", f"asks for {job.devices} GPUs; {there}", once=True)

    def _start(self, job: Job) -> None:
        before = processes.family(job, self.store.url)  # of the run it resumes, which may be about to end
        processes.kill(processes.survivors(before, 10))
        if child := self._children.pop(job.id, None):
            child.wait()
        try:
            child = launch.start(job, self.store.url)
        except (OSError, ValueError) as error:  # ValueError: an argument no process can have
            self.store.move(job.id, ALIVE, "failed", str(error), error=str(error))
            return
        self._children[job.id] = child
        with contextlib.suppress(psutil.Error):  # over already: the next tick sees it
            self.store.set(job.id, pid=child.pid, pid_started=psutil.Process(child.pid).create_time())

    # --- watching

    def _is_alive(self, job: Job) -> bool:
        """Whether the job runs; one whose owner is gone without a word is given its true state."""
        if job.id in self._children or processes.find(job.pid, job.pid_started):
            self._missing.pop(job.id, None)
            return True
        if job.pid is None and (found := processes.marked(job, self.store.url)):
            # Its worker died before it noted the process.
            self.store.set(job.id, pid=found[0].pid, pid_started=found[0].create_time())
            return True
        # A moment for the worker that started it, who knows its exit code, or is about to start it.
        moment = LAUNCHING if job.pid is None else ENDING
        if time.monotonic() - self._missing.setdefault(job.id, time.monotonic()) > moment:
            self._over(job, None)
            del self._missing[job.id]
        return False

    def _over(self, job: Job, code: int | None) -> None:
        """The owner of a job has ended: nothing of it may go on, and its state is how it ended."""
        processes.kill(processes.family(job, self.store.url))
        send_kept(self.store, Path(job.out), job.id)
        job = self.store.get(job.id)
        if job.state in ALIVE:
            state, why = judge(job, code)
            error = why if state == "failed" else None
            self.store.move(job.id, ALIVE, state, why, error=error, exit_code=code)
        elif job.state in FINISHED and code is not None:  # as the run itself reported
            self.store.set(job.id, exit_code=code)

    def _lose_silent(self) -> None:
        for job in self.store.search(states=ALIVE, cluster=["local"], archived=None):
            if job.host != self.host and (job.heartbeat is None or now() - job.heartbeat > SILENT):
                self.store.move(job.id, ALIVE, "failed", f"{LOST} ({job.host} is silent)", error=LOST)

    # --- stopping

    def _stop(self, job: Job) -> None:
        """Ask once; when the grace is over, end every process of the job."""
        asked, owner = self.store.asked_to_stop(job), processes.find(job.pid, job.pid_started)
        if asked is None and owner and self.store.claim_stop(job, f"SIGTERM, {self.grace:g} s to save"):
            # To the owner alone: torchrun passes it on, and a run takes a second one as "at once".
            with contextlib.suppress(psutil.Error):
                owner.send_signal(signal.SIGTERM)
        elif asked and now() - asked > timedelta(seconds=self.grace):
            self.store.note(job.id, "signal", "SIGKILL to all its processes", once=True)
            processes.kill(processes.family(job, self.store.url))
