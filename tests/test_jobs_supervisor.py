"""Starting, watching and stopping real processes; quick ones stand for training (test_worker.py trains)."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from job_configs import make_config

from trainers.jobs import launch, processes, supervisor
from trainers.jobs.absorb import LOST
from trainers.jobs.store import Store
from trainers.jobs.supervisor import Supervisor

SLEEP = "import time; print('ready', flush=True); time.sleep(60)"
SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75)))
print('ready', flush=True); time.sleep(60)
"""
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.Popen(sleep)
subprocess.Popen(sleep, start_new_session=True)
subprocess.run(["setsid", "-f", *sleep])
print('ready', flush=True); time.sleep(60)
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FFN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(supervisor, "ENDING", 0.3)
    store = Store()
    yield store
    for job in store.search(archived=None):
        processes.kill(processes.family(job, store.url))
    store.close()


@pytest.fixture
def runs(monkeypatch):
    """``runs(code)``: every job started from now on runs this Python code."""

    def set_code(code):
        monkeypatch.setattr(launch, "command", lambda job: [sys.executable, "-c", code])

    return set_code


def queue(store, tmp_path, name="a", **options):
    return store.add(make_config(tmp_path / "runs" / name), **options)


def tick_until(supervisor, condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        supervisor.tick()
        time.sleep(0.02)


def ready(job):
    log = Path(job.out) / launch.LOG
    return lambda: log.exists() and "\nready" in log.read_text()


@pytest.mark.parametrize(
    ("code", "state", "error"),
    [
        ("pass", "succeeded", None),
        ("import sys; sys.exit(75)", "cancelled", None),
        ("import sys; sys.exit('trainers.run: there is no clip')", "failed", "trainers.run: there is no clip"),
        ("import sys; sys.exit(3)", "failed", "$ python -c import sys; sys.exit(3)"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "killed by SIGKILL; resume it to go on from"),
    ],
)
def test_how_a_run_ends_is_the_state_of_its_job(code, state, error, store, runs, tmp_path):
    runs(code)
    job, worker = queue(store, tmp_path), Supervisor(store)
    tick_until(worker, lambda: store.get(job.id).state not in ("queued", "running"))
    ended = store.get(job.id)
    assert (ended.state, ended.finished is not None) == (state, True)
    assert (ended.error or "").startswith(error or "") and bool(ended.error) == bool(error)
    assert ended.exit_code is not None and store.events(job.id)[-1].kind == state


def test_a_stopped_run_saves_first_and_is_asked_once(store, runs, tmp_path):
    runs(SAVES)
    job, worker = queue(store, tmp_path), Supervisor(store)
    tick_until(worker, ready(job))
    store.cancel(job.id)
    tick_until(worker, lambda: store.get(job.id).state == "cancelled")
    assert store.get(job.id).exit_code == 75
    assert [event.kind for event in store.events(job.id)].count("signal") == 1


def test_a_stubborn_run_leaves_no_process(store, runs, tmp_path):
    runs(STUBBORN)
    job, worker = queue(store, tmp_path), Supervisor(store, grace=0.2)
    tick_until(worker, ready(job))
    family = processes.family(store.get(job.id), store.url)
    assert len(family) == 4  # one in its group, one in another session, one that left its parent
    store.cancel(job.id)
    tick_until(worker, lambda: store.get(job.id).state == "cancelled")
    assert processes.survivors(family, 0) == []


def test_what_a_killed_run_leaves_is_ended_too(store, runs, tmp_path):
    runs(STUBBORN)
    job, worker = queue(store, tmp_path), Supervisor(store)
    tick_until(worker, ready(job))
    family = processes.family(store.get(job.id), store.url)
    os.kill(store.get(job.id).pid, signal.SIGKILL)
    tick_until(worker, lambda: store.get(job.id).state == "failed")
    assert processes.survivors(family, 0) == []


def test_the_next_worker_finds_the_jobs_again(store, runs, tmp_path):
    runs(SAVES)
    job = queue(store, tmp_path)
    tick_until(Supervisor(store), ready(job))
    pid = store.get(job.id).pid
    store.set(job.id, pid=None, pid_started=None)  # its worker was killed before it noted the process
    second = Supervisor(store)
    second.tick()
    assert store.get(job.id).pid == pid and store.get(job.id).state == "running"
    store.cancel(job.id)
    second.tick()
    third = Supervisor(store)  # the second was killed as the job saved: nobody asks again, which would end it
    tick_until(third, lambda: store.get(job.id).state == "cancelled")
    assert [event.kind for event in store.events(job.id)].count("signal") == 1


def test_a_lost_job_is_said_so_and_resumes(store, runs, tmp_path):
    runs(SLEEP)
    job = queue(store, tmp_path)
    first = Supervisor(store)
    tick_until(first, ready(job))
    psutil.Process(store.get(job.id).pid).kill()
    first._children.popitem()[1].wait()  # the worker is gone too, and nobody saw how the run ended
    second = Supervisor(store)
    tick_until(second, lambda: store.get(job.id).state == "failed")
    assert store.get(job.id).error == LOST
    runs("pass")
    store.resume(job.id)
    tick_until(second, lambda: store.get(job.id).state == "succeeded")
    assert store.get(job.id).resumes == 1 and store.get(job.id).error is None


def test_another_process_with_the_same_id_is_not_the_job(store, runs, tmp_path):
    job = queue(store, tmp_path)
    store.claim(Supervisor(store).host)
    store.set(job.id, pid=os.getpid(), pid_started=1.0)  # that process began in 1970
    store.cancel(job.id)
    tick_until(Supervisor(store), lambda: store.get(job.id).state == "cancelled")  # and this one still runs


def test_a_silent_host_has_lost_its_jobs(store, tmp_path):
    job = queue(store, tmp_path)
    store.claim("another-host")
    worker = Supervisor(store)
    worker.tick()
    assert store.get(job.id).state == "running"
    store.set(job.id, heartbeat=store.get(job.id).heartbeat - 2 * supervisor.SILENT)
    worker._beat_at = 0
    worker.tick()
    assert store.get(job.id).error == LOST


def test_devices_are_shared_out(store, runs, tmp_path):
    runs(
        "import os; print('ready', os.environ['CUDA_VISIBLE_DEVICES'], flush=True); import time; time.sleep(60)"
    )
    jobs = [queue(store, tmp_path, str(i), devices=n) for i, n in enumerate((1, 0, 1, 1, 4))]
    worker = Supervisor(store, gpus=("2", "5"))
    tick_until(worker, lambda: all(ready(job)() for job in jobs[:3]))
    assert [store.get(job.id).given for job in jobs] == [["2"], [], ["5"], None, None]
    logs = [(Path(job.out) / launch.LOG).read_text().split("\nready")[-1].strip() for job in jobs[:3]]
    assert logs == ["2", "", "5"]
    assert store.events(jobs[4].id)[-1].text.startswith("asks for 4 GPUs")
    store.cancel(jobs[2].id)
    tick_until(worker, ready(jobs[3]))
    assert store.get(jobs[3].id).given == ["5"]


def test_the_command_of_several_gpus_is_torchruns(store, tmp_path):
    job = queue(store, tmp_path, devices=2)
    assert launch.command(job)[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert launch.command(job)[5:] == ["-m", "trainers.run", *job.command, "--resume", "auto"]


@pytest.mark.parametrize("obstacle", ["a file where the folder should be", "a full disk"])
def test_a_folder_that_cannot_be_written_is_one_sentence(obstacle, store, tmp_path):
    job, folder = queue(store, tmp_path), tmp_path / "runs" / "a"
    if obstacle == "a full disk":
        folder.mkdir()
        (folder / launch.LOG).symlink_to("/dev/full")
    else:
        folder.touch()
    Supervisor(store).tick()
    failed = store.get(job.id)
    why = "No space left on device" if obstacle == "a full disk" else "File exists"
    assert failed.state == "failed" and failed.error.startswith(
        f"the run folder {folder} cannot be written: {why}"
    )
