"""What a run folder holds, for people to see. Its path comes from the database: it is checked on every use."""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from io import StringIO
from pathlib import Path

from trainers.jobs.paths import confine, runs_folder
from trainers.jobs.tables import Job

LOGS = ("log.txt", "run.log")  # what the worker caught of it, or what the run wrote itself
TAIL = 256 * 1024  # bytes of a log that are looked at
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


def find(job: Job, name: str) -> Path | None:
    """The path of a file of a run; None if there is none, or if it lies outside the folder of the runs."""
    try:
        path = confine(Path(confine(job.out, runs_folder())) / name, runs_folder())
    except ValueError:
        return None
    return path if path.is_file() else None


def results(job: Job) -> dict:
    """results.json with numbers for keys (frame counts); empty if it is not there or not whole."""
    try:
        found = json.loads(find(job, "results.json").read_text())
        by_count = {
            name: {int(count): float(value) for count, value in (found.get(name) or {}).items()}
            for name in ("accuracy", "top5", "paper", "gflops")
        }
        return found | by_count
    except (AttributeError, OSError, ValueError, TypeError):
        return {}


def confusion(job: Job, frames: int) -> tuple[list[str], list[list[int]]]:
    """Class names, and for each label (row) how often each class (column) was predicted; empty without."""
    path = find(job, f"confusion_{frames}.csv")
    if path is None:
        return [], []
    head, *rows = [*csv.reader(StringIO(path.read_text(encoding="utf-8")))] or [[]]
    return head[1:], [[int(cell) for cell in row[1:]] for row in rows]


def log_tail(job: Job, lines: int) -> str:
    """The last lines of the log, each as a terminal would have left it."""
    path = next(filter(None, (find(job, name) for name in LOGS)), None)
    if path is None:
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        text = file.read().decode("utf-8", "replace")
    last = deque((line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")), lines)
    return ESCAPES.sub("", "\n".join(last)).strip("\n")


def size(path: Path) -> str:
    count = path.stat().st_size
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count / 1024:.0f} kB"
