"""``python -m trainers.worker`` as a person uses it: real workers, real training, really killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest
import torch
from job_configs import SMALL, make_config

from trainers.jobs import processes
from trainers.jobs.store import Store
from trainers.worker import find_gpus

LONG = 200  # epochs: more than any test waits for


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FFN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    store = Store()
    yield store
    for job in store.search(archived=None):
        processes.kill(processes.family(job, store.url))
    store.close()


@contextmanager
def worker(*options):
    command = [sys.executable, "-m", "trainers.worker", "--poll", "0.1", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)
        process.stdout.close()


def queue(store, tmp_path, name="a", epochs=LONG):
    return store.add(make_config(tmp_path / "runs" / name, epochs=epochs, **SMALL))


def wait_for(condition, what, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.1)


def saved_epochs(job):
    return torch.load(f"{job.out}/last.pt", weights_only=True)["progress"]["epoch"]


@pytest.mark.slow
def test_a_job_outlives_its_worker_and_stops_under_the_next(store, tmp_path):
    job = queue(store, tmp_path)
    with worker() as first:
        wait_for(lambda: store.get(job.id).epoch >= 1, "the first epoch")
        first.send_signal(signal.SIGKILL)
        first.wait()
        epoch = store.get(job.id).epoch
        wait_for(lambda: store.get(job.id).epoch > epoch, "an epoch without a worker")
    assert processes.find(store.get(job.id).pid, store.get(job.id).pid_started)
    with worker() as second:
        family = processes.family(store.get(job.id), store.url)
        store.cancel(job.id)
        wait_for(lambda: store.get(job.id).state == "cancelled", "the stop")
        stopped = store.get(job.id)
        assert processes.survivors(family, 20) == []
        assert saved_epochs(job) == stopped.epoch >= 2 and stopped.best > 0 and stopped.error is None
        second.terminate()
        assert second.wait(20) == 0
    assert len(store.search()) == 1


@pytest.mark.slow
def test_killed_training_is_told_and_resumed(store, tmp_path):
    job = queue(store, tmp_path)
    with worker():
        wait_for(lambda: store.get(job.id).epoch >= 1, "the first epoch")
        psutil.Process(store.get(job.id).pid).kill()
        wait_for(lambda: store.get(job.id).state == "failed", "the notice")
        assert store.get(job.id).error.startswith("killed by SIGKILL") and store.get(job.id).exit_code == -9
        epoch = saved_epochs(job)
        store.resume(job.id)
        wait_for(lambda: store.get(job.id).epoch > epoch, "an epoch of the resumed run")
        store.cancel(job.id)
        wait_for(lambda: store.get(job.id).state == "cancelled", "the stop")
    steps = [step for step, _ in store.series(job.id)["top1", 4]]
    assert steps == [3 * (i + 1) for i in range(len(steps))] and len(steps) == saved_epochs(job)


@pytest.mark.slow
def test_two_workers_share_one_queue_and_a_killed_headless_run_is_found(store, tmp_path):
    options = make_config(tmp_path / "runs" / "headless", epochs=LONG, **SMALL).command()
    headless = [sys.executable, "-m", "trainers.run", *options]
    by_hand = subprocess.Popen(headless, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    jobs = [queue(store, tmp_path, name, epochs=1).id for name in "abc"]
    with worker("--cpu-jobs", "2"), worker("--cpu-jobs", "2"):
        wait_for(lambda: len(store.search(states=["running"])) == 3, "two jobs and the run by hand")
        mine = store.search("headless")[0]
        assert (mine.pid, mine.given) == (by_hand.pid, None)
        by_hand.kill()
        by_hand.wait()
        wait_for(lambda: store.get(mine.id).state == "failed", "the notice")
        assert store.get(mine.id).error.startswith("lost")
        wait_for(lambda: all(store.get(job).exit_code == 0 for job in jobs), "the three jobs")
    for job in jobs:
        assert [event.kind for event in store.events(job)] == ["queued", "started", "succeeded"]
        assert os.path.exists(f"{store.get(job).out}/best.safetensors")


@pytest.mark.parametrize("visible, gpus", [("", []), ("0,1", ["0", "1"]), ("-1", []), ("2,-1,3", ["2"])])
def test_gpus_are_those_that_cuda_would_see(visible, gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_gpus() == gpus


def test_mistakes_are_one_sentence(monkeypatch):
    monkeypatch.setenv("FFN_DATABASE_URL", "nonsense")
    command = [sys.executable, "-m", "trainers.worker"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("trainers.worker: FFN_DATABASE_URL cannot be used")
    assert len(done.stderr.splitlines()) == 1
    monkeypatch.setenv("FFN_DATABASE_URL", "postgresql://me:secret@127.0.0.1:1/jobs")
    with worker() as process:
        line = process.stdout.readline()
        assert "cannot be used" in line and "trying again" in line and "secret" not in line
        assert process.poll() is None
