"""What a training run reports to the job store, without ever waiting for it.

The training thread only appends to a queue. Another thread writes to the database about once a second. While
the database is locked or gone it appends to a file in the run folder, and brings that in when the database is
back. What is still in the file when the run ends is brought in by the next run there, the worker or the
dashboard.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from trainers.jobs.absorb import UNSENT, absorb, keep, send_kept
from trainers.jobs.database import database_url
from trainers.jobs.store import Store, described
from trainers.jobs.tables import now

if TYPE_CHECKING:
    from trainers.config import Config

HEARTBEAT = 5.0
LONGEST_PAUSE = 30.0
POINTS = 2000  # about as many rows of a loss in each factor of e of a long run's time

log = logging.getLogger(__name__)


class Recorder:
    """Reports one run. Its methods take microseconds and raise nothing, whatever the database does.

    Args:
        interval: seconds between writes.
        every: least seconds between two reports of the losses, which are the means of the steps since.
        patience: seconds that a write waits for another's lock.
    """

    def __init__(self, *, interval: float = 1.0, every: float = 1.0, patience: float = 5.0):
        self._interval, self._every, self._patience = interval, every, patience
        self._job_id = int(os.environ.get("FFN_JOB_ID") or 0) or None
        self._folder: Path | None = None
        self._queue: deque[dict] = deque(maxlen=100_000)  # reached only if the run folder's disk is full too
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._store: Store | None = None
        self._pause = self._retry_at = self._beat_at = 0.0
        self._steps, self._began, self._due = 1, time.monotonic(), 0.0
        self._fresh = False
        self._losses: dict[str, list[float]] = {}

    # --- called by the training loop

    def begin(self, config: Config, steps_per_epoch: int) -> None:
        """The run starts or goes on in ``config.out``."""
        self._folder = Path(config.out).resolve()
        self._steps, self._began, self._due = steps_per_epoch, time.monotonic(), 0.0
        self._fresh, self._losses = True, {}
        columns = described(config)
        columns["steps"] = columns["epochs"] * steps_per_epoch
        self._put("begin", columns=columns, owner=owner(), given=gpus_in_use())

    def step(self, epoch: int, step: int, losses: dict[str, float], lr: float) -> None:
        """Step ``step`` of epoch ``epoch`` is done, both from 1; ``losses`` as in ``{"ce_16": 1.2}``."""
        done = (epoch - 1) * self._steps + step
        if self._fresh:
            self._put("rewind", step=done - 1)
            self._fresh = False
        for name, value in losses.items():
            self._losses.setdefault(name, []).append(value)
        time_now = time.monotonic()
        if time_now < self._due:
            return
        self._due = time_now + max(self._every, (time_now - self._began) / POINTS if self._every else 0)
        rows = [(*_named(name), sum(values) / len(values)) for name, values in self._losses.items()]
        self._losses = {}
        self._measured([*rows, ("lr", 0, lr)], epoch=epoch, step=done, epochs_done=epoch - 1)

    def epoch(self, epoch: int, rows: list[dict]) -> None:
        """Epoch ``epoch``, counted from 1, is validated; ``rows`` as in metrics.csv, one a frame count."""
        measured = [
            (name, int(row["frames"]), value)
            for row in rows
            for name, value in row.items()
            if name not in ("epoch", "frames", "lr", "seconds") and value not in ("", None)
        ]
        measured += [("seconds", 0, row["seconds"]) for row in rows[:1] if row.get("seconds")]
        top1 = [float(value) for name, _, value in measured if name == "top1"]
        best = sum(top1) / len(top1) if top1 else None
        self._measured(measured, epoch=epoch, step=epoch * self._steps, epochs_done=epoch, best=best)

    def end(self) -> None:
        """The run is done."""
        self._over("succeeded", "")

    def fail(self, error: str) -> None:
        """The run cannot go on; ``error`` is one sentence for people."""
        self._over("failed", error.replace("\0", ""))

    def stopped(self, signal_number: int) -> None:
        """The run was asked to stop and has saved its state."""
        name = signal.Signals(signal_number).name
        self._over("cancelled", f"stopped by {name}, its state saved", bool(os.environ.get("FFN_REQUEUE")))

    def close(self, patience: float = 15.0) -> None:
        """Write what is left, to the file if not to the database; at most ``patience`` seconds."""
        if self._thread and os.getpid() == self._process:
            self._closing.set()
            self._thread.join(patience)
            self._thread = None

    # --- the queue

    def _measured(self, rows: list[tuple], **place) -> None:
        finite = [(name, frames, float(value)) for name, frames, value in rows if math.isfinite(float(value))]
        self._put("metrics", rows=finite, **place)

    def _over(self, state: str, note: str, requeued: bool = False) -> None:
        self._put("over", state=state, note=note, requeued=requeued)
        self.close()

    def _put(self, kind: str, **values) -> None:
        if self._folder is None and self._job_id is None:
            return  # it failed before it began, and nobody has queued it
        self._queue.append({"kind": kind, "time": now().isoformat(), **values})
        if self._thread is None:
            self._closing.clear()
            self._thread = threading.Thread(target=self._write_on, name="recorder", daemon=True)
            self._thread.start()
            atexit.register(self.close)

    # --- the thread that writes

    def _write_on(self) -> None:
        while not self._closing.wait(self._interval):
            self._write()
        self._retry_at = 0.0
        self._write()
        if self._store:
            self._store.close()
            self._store = None

    def _write(self) -> None:
        """Send everything that waits, or keep it in the file. Training never sees an error of this."""
        records = [self._queue.popleft() for _ in range(len(self._queue))]
        time_now = time.monotonic()
        if time_now >= self._beat_at:
            records.append({"kind": "alive", "time": now().isoformat()})
            self._beat_at = time_now + HEARTBEAT
        if not records or self._retry_at > time_now:
            self._keep(records)
            return
        try:
            self._send(records)
            self._pause = 0.0
        except Exception as error:
            if not self._pause:
                log.warning("%s; training goes on and reports later", error)
            self._pause = min(2 * self._pause or 1.0, LONGEST_PAUSE)
            self._retry_at = time.monotonic() + self._pause
            self._keep(records)

    def _send(self, records: list[dict]) -> None:
        # No pool: a connection that is open when the loader forks its processes would be theirs too.
        self._store = self._store or Store(database_url(), patience=self._patience, pooled=False)
        if self._folder and (self._folder / UNSENT).exists():
            keep(self._folder, records, self._job_id)
            records.clear()
            self._job_id = send_kept(self._store, self._folder, self._job_id)
        else:
            self._job_id = absorb(self._store, records, self._job_id, str(self._folder))

    def _keep(self, records: list[dict]) -> None:
        """To the file; heartbeats are not worth keeping. Back to the queue if there is no room for the file."""
        records = [record for record in records if record["kind"] != "alive"]
        if not records:
            return
        try:
            if self._folder is None:
                raise FileNotFoundError("the run has no folder yet")
            self._folder.mkdir(parents=True, exist_ok=True)
            keep(self._folder, records, self._job_id)
        except OSError:
            self._queue.extendleft(reversed(records))


def owner() -> dict:
    """The process that stands for this run: itself, or the launcher that started its processes."""
    process = psutil.Process()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        process = process.parent() or process
    return {"pid": process.pid, "pid_started": process.create_time(), "host": socket.gethostname()}


def gpus_in_use() -> list[str] | None:
    """The GPUs of this run, as the worker names them; None on the CPU."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    own = list(range(processes)) if processes > 1 else [cuda.current_device()]
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return [visible[i] if i < len(visible) else str(i) for i in own]


def _named(loss: str) -> tuple[str, int]:
    """``ce_16`` is the loss ``ce`` at 16 frames."""
    name, _, frames = loss.rpartition("_")
    return (f"loss_{name}", int(frames)) if name and frames.isdigit() else (f"loss_{loss}", 0)
