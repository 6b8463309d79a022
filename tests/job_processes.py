"""What the other processes of the job tests do. Imports no torch, so that they start quickly."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

from trainers.jobs.record import Recorder
from trainers.jobs.store import Store


def open_and_count(database):
    store = Store(database)
    try:
        return sum(store.count().values())
    finally:
        store.close()


def claim_all(database, worker):
    """Take jobs until there are none left, as worker ``worker``; their ids."""
    store, taken = Store(database), []
    while job := store.claim(f"host{worker}", cpu_jobs=1000):
        taken.append(job.id)
    store.close()
    return taken


@dataclass(frozen=True)
class FakeConfig:
    """What the store reads of trainers.config.Config, without PyTorch."""

    out: Path
    epochs: int = 1
    model: str = "tsm_tiny"
    data: str = "motion"
    method: str = "ffn"
    recipe: str | None = None

    def resolved(self):
        return self

    def absolute(self):
        return replace(self, out=Path(self.out).resolve())

    def to_json(self):
        return json.dumps(vars(self), default=str)

    def command(self):
        return ["--out", str(self.out)]


def write_steps(out, seconds, per_second=50):
    """Report every step for some seconds; the number of steps and the seconds that each call took."""
    recorder, times = Recorder(interval=0.5, every=0), []
    recorder.begin(FakeConfig(Path(out)), steps_per_epoch=10**6)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        recorder.step(1, len(times) + 1, {"ce_16": 1.0, "kl_4": 2.0}, 0.1)
        times.append(time.perf_counter() - started)
        time.sleep(1 / per_second)
    recorder.end()
    return len(times), times
