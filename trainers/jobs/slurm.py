"""Jobs on a SLURM cluster, through submitit: the same states, log, stop and resume as on this machine.

A job is submitted once, and requeued when its time on the cluster is over: submitit gets SIGUSR2 a little
before, the run SIGTERM, it saves, and goes on from there. ``FFN_SLURM`` holds what the cluster wants to know:
the names of sbatch's options, as in ``partition=gpu,time=1440,cpus_per_task=8``; the time in minutes.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from trainers.jobs import launch
from trainers.jobs.absorb import send_kept
from trainers.jobs.judge import judge
from trainers.jobs.paths import runs_folder
from trainers.jobs.store import Store
from trainers.jobs.tables import ALIVE, Job, now

SAVING = 80.0  # seconds: the cluster kills 90 s after its SIGUSR2
STUCK = timedelta(minutes=1)  # a submission that took longer has died with its worker
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "STOPPED", "SUSPENDED", "RESIZING")
ENDING = ("COMPLETING", "STAGE_OUT", "SIGNALING")
EVERY = 5.0


@dataclass
class ClusterRun:
    """What the cluster executes on each node of a job, and how it saves. Submitit pickles it."""

    job: Job
    environment: dict[str, str]

    def __call__(self) -> int:
        """Train; the exit code of the run."""
        torchrun = None
        if self.job.nodes > 1:
            from submitit import JobEnvironment

            here = JobEnvironment()
            meeting = f"--rdzv-endpoint={here.hostnames[0]}:{20_000 + int(here.raw_job_id) % 10_000}"
            torchrun = [
                f"--nnodes={here.num_nodes}",
                "--rdzv-backend=c10d",
                f"--rdzv-id={here.job_id}",
                meeting,
            ]
        with open(Path(self.job.out) / launch.LOG, "a") as log:
            self._run = subprocess.Popen(
                launch.command(self.job, torchrun),
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # The cluster's SIGUSR2 reaches the run too, and is not for it.
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
            )
        while self._run.poll() is None:  # not wait(): checkpoint() interrupts it, and waits too
            time.sleep(0.2)
        if os.environ.get("SLURM_PROCID", "0") == "0":
            exit_file(self.job.out, os.environ["SLURM_JOB_ID"]).write_text(str(self._run.returncode))
        return self._run.returncode

    def checkpoint(self):
        """The time is nearly over: have the run save, and put the job into the cluster's queue again."""
        from submitit.helpers import DelayedSubmission

        self._run.terminate()
        deadline = time.monotonic() + SAVING
        while self._run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        return DelayedSubmission(replace(self))


class Slurm:
    """Submits the queue's jobs for the cluster and keeps their states true. Call :meth:`tick` often."""

    def __init__(self, store: Store, grace: float):
        self.store, self.grace = store, grace
        self._next = 0.0
        self._pending: set[int] = set()

    def tick(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY
        jobs = self.store.search(states=("queued", *ALIVE), cluster=["slurm"], archived=None)
        if not jobs:
            return
        if lacks := missing():
            for job in jobs:
                self.store.note(job.id, "waits", lacks, once=True)
            return
        states = squeue()
        if states is None:  # the cluster's controller does not answer
            return
        for job in reversed(jobs):
            if not job.cluster_job:
                self._submit(job, states)
            else:
                state, _ = states.get(job.cluster_job, ("", ""))
                self._follow(job, state)

    def _submit(self, job: Job, states: dict[str, tuple[str, str]]) -> None:
        if job.cluster_job == "" and now() - (job.heartbeat or job.queued) > STUCK:
            submitted = next((number for number, (_, name) in states.items() if name == name_of(job)), None)
            self.store.set(job.id, cluster_job=submitted)
            if submitted is None:
                self.store.move(job.id, ["stopping"], "cancelled", "never submitted")
            return
        if not self.store.claim_submission(job.id):
            return
        try:
            number = submit(job)
        except Exception as error:  # submitit's own, sbatch's, the folder's
            why = f"the cluster did not take the job: {' '.join(str(error).split())}"
            self.store.move(job.id, ("queued", *ALIVE), "failed", why, error=why)
            return
        self.store.set(job.id, cluster_job=number)
        self.store.note(job.id, "submitted", f"SLURM job {number}")

    def _follow(self, job: Job, state: str) -> None:
        if state in WAITING:
            self._pending.add(job.id)
            if job.state == "stopping":
                scancel(job)
            else:
                self.store.move(job.id, ["running"], "queued", "waits in the cluster's queue")
        elif state in RUNNING and job.state == "stopping":
            self._stop(job)
        elif state in RUNNING:
            self._runs(job)
        elif state not in ENDING:
            self._over(job, state)

    def _runs(self, job: Job) -> None:
        self.store.seen([job.id])
        # A job that has saved and is about to be requeued still runs for the cluster, but waits for us.
        if job.id in self._pending or job.started is None:
            self._pending.discard(job.id)
            self.store.move(job.id, ["queued"], "running", "on the cluster", started=now(), finished=None)

    def _stop(self, job: Job) -> None:
        asked = self.store.asked_to_stop(job)
        if asked is None:
            if self.store.claim_stop(job, f"SIGTERM, {self.grace:g} s to save"):
                scancel(job, "--signal=TERM")
        elif now() - asked > timedelta(seconds=self.grace):
            scancel(job)

    def _over(self, job: Job, state: str) -> None:
        """The cluster has done with the job; how it ended says what it reported, else its exit code."""
        send_kept(self.store, Path(job.out), job.id)
        job = self.store.get(job.id)
        if job.state not in ("queued", *ALIVE):
            return
        if state.startswith("CANCELLED"):
            verdict, why = "cancelled", "cancelled on the cluster"
        elif state in ("TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE"):
            verdict, why = (
                "failed",
                f"ended by the cluster: {state}; resume it to go on from its last checkpoint",
            )
        else:
            verdict, why = judge(job, exit_code(job))
        error = why if verdict == "failed" else None
        self.store.move(job.id, ("queued", *ALIVE), verdict, why, error=error, exit_code=exit_code(job))


def missing() -> str:
    """What this machine lacks to reach a cluster, in one sentence; "" if nothing."""
    if importlib.util.find_spec("submitit") is None:
        return "needs submitit: pip install 'frame-flexible-network[slurm]'"
    if shutil.which("sbatch") is None:
        return "needs SLURM's commands (sbatch, squeue, scancel), which this machine does not have"
    return ""


def name_of(job: Job) -> str:
    return f"ffn-{job.id}-{Path(job.out).name}"


def parse_options(text: str) -> dict[str, str]:
    """Names and values in ``name=value,name=value``; a value may hold commas, as lists of nodes do."""
    return dict(re.findall(r"(\w+)=(.*?)\s*(?:,\s*(?=\w+=)|,?$)", text.strip()))


def submit(job: Job) -> str:
    """Hand a job to the cluster; its number there. Raises whatever submitit, sbatch or the folder raises."""
    import submitit

    options = {"time": 24 * 60, "job_name": name_of(job), "nodes": job.nodes, "ntasks_per_node": 1}
    if job.devices:
        options["gpus_per_node"] = job.devices
    asked = parse_options(os.environ.get("FFN_SLURM", ""))
    options |= {name: int(asked.pop(name)) for name in ("time", "cpus_per_task") if name in asked}
    folder = Path(job.out) / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=100_000)
    executor.update_parameters(**options, additional_parameters=asked)
    environment = {"FFN_JOB_ID": str(job.id), "FFN_RUNS": str(runs_folder()), "FFN_REQUEUE": "1"}
    if not job.devices:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return executor.submit(ClusterRun(job, environment)).job_id


def squeue() -> dict[str, tuple[str, str]] | None:
    """State and name of each of this user's jobs that the cluster still knows; None if it does not answer."""
    command = ["squeue", "--me", "--noheader", "--states=all", "--format=%i %T %j"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return None
    parts = (line.split(maxsplit=2) for line in done.stdout.splitlines())
    return {number: (state, name) for number, state, name in parts}


def scancel(job: Job, *options: str) -> None:
    with suppress(subprocess.TimeoutExpired):  # it is asked again, or the job is killed in the end
        subprocess.run(["scancel", *options, job.cluster_job], capture_output=True, check=False, timeout=60)


def exit_file(out: str, cluster_job: str) -> Path:
    return Path(out) / "slurm" / f"{cluster_job}_exit_code.txt"


def exit_code(job: Job) -> int | None:
    """The exit code of the run, which its wrapper left in the folder; None if there is none."""
    try:
        return int(exit_file(job.out, job.cluster_job).read_text())
    except (OSError, ValueError):
        return None
