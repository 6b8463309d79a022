"""Runs the jobs of the queue on this machine: ``python -m trainers.worker``

Jobs outlive the worker: stop it and they go on; start it again and it finds them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import takewhile

import tyro

from trainers.jobs.database import DatabaseDown, named
from trainers.jobs.store import Store
from trainers.jobs.supervisor import Supervisor


@dataclass(frozen=True)
class Options:
    """Run the jobs of the queue, as many at once as there are GPUs, and jobs for the CPU beside them."""

    cpu_jobs: int = 1
    """jobs for the CPU that may run at once"""
    grace: float = 60.0
    """seconds a job has to save its state when it is stopped; then all its processes are killed"""
    poll: float = 1.0
    """seconds between two looks at the queue"""


def find_gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return list(takewhile(lambda gpu: gpu not in ("", "-1"), map(str.strip, visible.split(","))))
    # In a process of its own: the worker runs for weeks and needs no PyTorch itself.
    count = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=False)
    return [str(i) for i in range(int(done.stdout))] if done.returncode == 0 else []


def work(options: Options, stop: threading.Event) -> None:
    """Look after the jobs until ``stop``; while the database is away they run on, and it looks again."""
    supervisor, gpus, said = None, find_gpus(), ""
    while not stop.is_set():
        try:
            if supervisor is None:
                supervisor = Supervisor(Store(), gpus, options.cpu_jobs, options.grace)
                where = named(supervisor.store.engine.url)
                print(f"worker: {len(gpus)} GPUs, {options.cpu_jobs} jobs on the CPU, {where}", flush=True)
            supervisor.tick()
            said = ""
        except DatabaseDown as error:
            if str(error) != said:
                said = str(error)
                print(f"worker: {said}; trying again", file=sys.stderr, flush=True)
        stop.wait(options.poll)


def main(arguments: list[str]) -> int:
    options = tyro.cli(Options, args=arguments, prog="python -m trainers.worker")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        work(options, stop)
    except ValueError as error:
        print(f"trainers.worker: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
