"""Jobs on a real one-node SLURM: submitted, requeued when their time is over, stopped, resumed."""

import subprocess
import time

import pytest
from job_configs import SMALL, make_config
from test_worker import LONG, saved_epochs

from trainers.jobs import slurm as cluster
from trainers.jobs.store import Store
from trainers.jobs.supervisor import Supervisor


@pytest.fixture
def store(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("FFN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(cluster, "EVERY", 0.3)
    store = Store()
    yield store
    store.close()


def tick_until(supervisor, condition, what, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        supervisor.tick()
        time.sleep(0.1)


def test_options_may_hold_commas():
    parsed = cluster.parse_options("partition=gpu, exclude=n1,n2,time=60,")
    assert parsed == {"partition": "gpu", "exclude": "n1,n2", "time": "60"}
    assert cluster.parse_options("") == {}


@pytest.mark.slow
def test_a_job_is_requeued_stopped_and_resumed(store, tmp_path):
    job = store.add(make_config(tmp_path / "runs" / "a", epochs=LONG, **SMALL), cluster="slurm")
    worker = Supervisor(store, grace=60)
    tick_until(worker, lambda: store.get(job.id).epoch >= 1, "the first epoch")
    running = store.get(job.id)
    assert running.state == "running" and running.cluster_job
    # What the cluster does a little before the job's time is over:
    subprocess.run(["scancel", "--signal=USR2", running.cluster_job], check=True)
    tick_until(worker, lambda: store.get(job.id).state == "queued", "the requeue")
    epoch = saved_epochs(job)
    tick_until(worker, lambda: store.get(job.id).epoch > epoch, "an epoch of the requeued run")
    assert (store.get(job.id).cluster_job, store.get(job.id).state) == (running.cluster_job, "running")
    store.cancel(job.id)
    tick_until(worker, lambda: store.get(job.id).state == "cancelled", "the stop")
    stopped = store.get(job.id)
    assert saved_epochs(job) == stopped.epoch > epoch and stopped.error is None
    tick_until(worker, lambda: not still_there(running), "the end on the cluster")
    steps = [step for step, _ in store.series(job.id)["top1", 4]]
    assert steps == [3 * (i + 1) for i in range(len(steps))]  # nothing twice, nothing missing
    assert "epoch" in (tmp_path / "runs" / "a" / "log.txt").read_text()


def still_there(job):
    return cluster.squeue()[job.cluster_job][0] not in ("COMPLETED", "FAILED", "CANCELLED")


@pytest.mark.slow
def test_how_jobs_end_on_the_cluster(store, tmp_path, monkeypatch):
    worker = Supervisor(store, grace=60)
    wrong = store.add(make_config(tmp_path / "runs" / "wrong", **SMALL | {"clips": 1}), cluster="slurm")
    tick_until(worker, lambda: store.get(wrong.id).cluster_job, "the submission")
    monkeypatch.setenv("FFN_SLURM", "begin=now+1hour,partition=main")
    waiting = store.add(make_config(tmp_path / "runs" / "waiting", **SMALL), cluster="slurm")
    tick_until(worker, lambda: store.get(waiting.id).cluster_job, "the submission")
    assert store.get(waiting.id).state == "queued"
    monkeypatch.setenv("FFN_SLURM", "partition=nowhere")
    refused = store.add(make_config(tmp_path / "runs" / "refused", **SMALL), cluster="slurm")
    tick_until(worker, lambda: store.get(refused.id).state == "failed", "the refusal")
    assert "the cluster did not take the job" in store.get(refused.id).error
    assert "\n" not in store.get(refused.id).error and "nowhere" in store.get(refused.id).error
    store.cancel(waiting.id)
    tick_until(worker, lambda: store.get(waiting.id).state == "cancelled", "the cancellation")
    tick_until(worker, lambda: store.get(wrong.id).state == "failed", "the failure")
    assert "1 training clips do not fill one batch" in store.get(wrong.id).error
