"""What a running job takes of this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time

import psutil
import streamlit as st

from trainers.jobs import processes
from trainers.jobs.tables import ALIVE, Job


def usage(job: Job) -> dict[str, str]:
    """CPU and memory of the job's processes, and its GPUs; empty if it does not run on this machine."""
    if job.state not in ALIVE or job.host != socket.gethostname():
        return {}
    owner = processes.find(job.pid, job.pid_started)
    if owner is None:
        return {}
    try:
        family = [owner, *owner.children(recursive=True)]
    except psutil.Error:
        return {}
    seconds, memory = 0.0, 0
    for process in family:
        try:
            times = process.cpu_times()
            seconds += times.user + times.system
            memory += process.memory_info().rss
        except psutil.Error:  # it ended meanwhile
            continue
    total = psutil.virtual_memory().total
    cores = f"{_cores_used(job, seconds):.1f} of {psutil.cpu_count()} cores"
    shown = {"CPU": cores, "Memory": f"{memory / 2**30:.2f} of {total / 2**30:.0f} GB"}
    given = set(map(str, job.given or ()))
    return shown | {f"GPU {n}": text for n, text in gpus().items() if n in given}


def _cores_used(job: Job, seconds: float) -> float:
    """CPU seconds per second since the page last looked."""
    key = f"cpu-{job.pid}"
    looked, before = st.session_state.get(key, (time.monotonic(), seconds))
    passed = time.monotonic() - looked
    st.session_state[key] = (time.monotonic(), seconds)
    return max(0.0, seconds - before) / passed if passed > 0.1 else 0.0


@st.cache_data(ttl=2, show_spinner=False)
def gpus() -> dict[str, str]:
    """Load and memory of each NVIDIA GPU by its number; empty where there is none."""
    if not shutil.which("nvidia-smi"):
        return {}
    fields = "index,utilization.gpu,memory.used,memory.total"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        rows = [[int(cell) for cell in line.split(",")] for line in lines.splitlines()]
    except (subprocess.SubprocessError, OSError, ValueError):
        return {}
    return {str(n): f"{load} %, {used / 1024:.1f} of {total / 1024:.0f} GB" for n, load, used, total in rows}
