"""What a run reports reaches the store, whatever the database does meanwhile; training never waits for it."""

import multiprocessing
import os
import signal
import sqlite3
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from job_processes import FakeConfig, write_steps

from trainers.jobs.absorb import LOST, UNSENT, send_all_kept
from trainers.jobs.record import Recorder
from trainers.jobs.store import Store

SPAWN = multiprocessing.get_context("spawn")
QUICK = {"interval": 0.02, "every": 0, "patience": 0.1}
STEPS = 5
ROWS = [
    {"epoch": 1, "frames": n, "ce": 1.5, "kl": "", "top1": 10.0 * n, "lr": 0.1, "seconds": 3.0} for n in (4, 8)
]


@pytest.fixture
def store(database, monkeypatch):
    monkeypatch.setattr("trainers.jobs.record.LONGEST_PAUSE", 0.2)
    monkeypatch.setattr("trainers.jobs.record.HEARTBEAT", 0.2)
    store = Store(database)
    yield store
    store.close()


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    return FakeConfig(folder, epochs=2)


@contextmanager
def away(database):
    """The database answers nobody: SQLite is locked by another process, PostgreSQL lets nobody in."""
    if database.startswith("sqlite"):
        other = sqlite3.connect(database.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")
        other.close()
        return
    server, _, name = database.partition("@/")
    name, _, host = name.partition("?")
    with psycopg.connect(f"{server}@/postgres?{host}", autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        yield
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def train(recorder, steps=range(1, STEPS + 1), epoch=1):
    times = []
    for step in steps:
        started = time.perf_counter()
        recorder.step(epoch, step, {"ce_8": float(step), "kl_4": 2.0, "mixed": 3.0}, 0.1)
        times.append(time.perf_counter() - started)
    assert sorted(times)[len(times) // 2] < 0.02  # much less than QUICK's patience: nobody waited


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_headless_run_registers_itself(store, config):
    recorder = Recorder(**QUICK)
    recorder.begin(config, STEPS)
    train(recorder)
    wait_for(lambda: store.search() and store.search()[0].step == STEPS)
    job = store.search()[0]
    assert (job.state, job.pid, job.epoch, job.steps) == ("running", os.getpid(), 0, 2 * STEPS)
    assert job.config == config.to_json() and job.heartbeat and job.given is None
    recorder.epoch(1, ROWS)
    train(recorder, epoch=2)
    recorder.epoch(2, [row | {"top1": 1.0} for row in ROWS])
    recorder.end()
    job = store.search()[0]
    assert (job.state, job.epoch, job.step, job.best) == ("succeeded", 2, 2 * STEPS, 60.0)
    curves = store.series(job.id)
    assert [step for step, _ in curves["loss_ce", 8]] == list(range(1, 2 * STEPS + 1))
    assert curves["top1", 8] == [(STEPS, 80.0), (2 * STEPS, 1.0)] and curves["loss_mixed", 0][0] == (1, 3.0)
    assert ("kl", 8) not in curves and curves["seconds", 0][0] == (STEPS, 3.0)
    assert [event.kind for event in store.events(job.id)] == ["started", "succeeded"]
    assert not (config.out / UNSENT).exists()


def test_the_job_of_a_worker_is_adopted(store, config, monkeypatch):
    job = store.add(config)
    store.claim("here")
    monkeypatch.setenv("FFN_JOB_ID", str(job.id))
    recorder = Recorder(**QUICK)
    recorder.begin(config, STEPS)
    wait_for(lambda: store.get(job.id).pid == os.getpid())
    store.cancel(job.id)
    train(recorder)
    recorder.stopped(signal.SIGTERM)
    assert store.get(job.id).state == "cancelled" and store.get(job.id).step == STEPS
    assert "SIGTERM" in store.events(job.id)[-1].text and len(store.search()) == 1


def test_a_failure_before_the_start_is_reported_too(store, config, monkeypatch):
    Recorder(**QUICK).fail("nobody knows of this run")
    assert store.search() == []
    job = store.add(config)
    store.claim("here")
    monkeypatch.setenv("FFN_JOB_ID", str(job.id))
    Recorder(**QUICK).fail("there is no data set in data/ssv1")
    assert (store.get(job.id).state, store.get(job.id).error) == ("failed", "there is no data set in data/ssv1")


def test_resumed_by_hand_is_the_same_job_from_what_was_saved(store, config):
    recorder = Recorder(**QUICK)
    recorder.begin(config, STEPS)
    train(recorder)
    recorder.close()  # as if killed: the state of step 2 was the last that was saved
    recorder = Recorder(**QUICK)
    recorder.begin(config, STEPS)
    train(recorder, range(3, 5))
    recorder.fail("no")
    recorder = Recorder(**QUICK)
    recorder.begin(config, STEPS)
    recorder.end()
    assert [(job.id, job.state, job.error) for job in store.search()] == [(1, "succeeded", None)]
    assert [step for step, _ in store.series(1)["loss_ce", 8]] == [1, 2, 3, 4]


def test_a_database_that_goes_away_is_caught_up_with(store, database, config):
    recorder = Recorder(**QUICK)
    recorder.begin(config, STEPS)
    wait_for(store.search)
    store.close()
    with away(database):
        train(recorder)
        wait_for((config.out / UNSENT).exists)
        recorder.epoch(1, ROWS)
        train(recorder, epoch=2)
        wait_for(lambda: '"top1"' in (config.out / UNSENT).read_text())
    wait_for(lambda: store.search()[0].step == 2 * STEPS)
    assert not (config.out / UNSENT).exists()
    recorder.end()
    assert store.search()[0].state == "succeeded" and len(store.series(1)["loss_ce", 8]) == 2 * STEPS


def run_unseen(store, database, config, over):
    """A whole run while the database is away; ``over(recorder)`` ends it."""
    store.close()
    with away(database):
        recorder = Recorder(**QUICK)
        recorder.begin(config, STEPS)
        train(recorder)
        over(recorder)
    assert (config.out / UNSENT).exists()


def test_a_database_that_stays_away_is_told_later(store, database, config):
    run_unseen(store, database, config, lambda recorder: recorder.end())
    with open(config.out / UNSENT, "a") as file:
        file.write('{"kind": "metr')  # killed as it wrote
    send_all_kept(store)
    send_all_kept(store)
    assert [(job.state, job.out) for job in store.search()] == [("succeeded", str(config.out))]
    assert len(store.series(1)["loss_ce", 8]) == STEPS and not (config.out / UNSENT).exists()


def test_what_arrives_late_changes_no_later_state(store, database, config):
    run_unseen(store, database, config, lambda recorder: recorder.fail("out of memory"))
    kept = (config.out / UNSENT).read_bytes()
    again = Recorder(**QUICK)
    again.begin(config, STEPS)
    wait_for(lambda: store.search() and store.search()[0].state == "running")
    (config.out / UNSENT).write_bytes(kept)
    send_all_kept(store)
    assert store.search()[0].state == "running" and store.search()[0].error is None
    again.end()


def test_a_job_taken_for_lost_runs_again(store, config):
    recorder = Recorder(**QUICK)
    recorder.begin(config, STEPS)
    wait_for(store.search)
    store.move(1, ["running"], "failed", error=LOST)
    wait_for(lambda: store.get(1).state == "running")
    recorder.end()


def test_no_database_and_no_disk_still_train(config, monkeypatch):
    monkeypatch.setenv("FFN_DATABASE_URL", "postgresql://me@127.0.0.1:1/none")
    (config.out / UNSENT).symlink_to("/dev/full")
    recorder = Recorder(**QUICK)
    recorder.begin(config, STEPS)
    train(recorder)
    recorder.epoch(1, ROWS)
    recorder.end()


def test_long_runs_are_thinned(store, config):
    recorder = Recorder(interval=0.02, every=3600)
    recorder.begin(config, 1000)
    train(recorder, range(1, 1001))
    recorder.end()
    assert len(store.series(1)["loss_ce", 8]) == 1


SECONDS = int(os.environ.get("FFN_WRITERS_SECONDS", 3))  # 60 for the long version


@pytest.mark.slow
def test_twenty_writers_lose_no_row_and_wait_for_nothing(store, tmp_path):
    outs = [str(tmp_path / "runs" / str(i)) for i in range(20)]
    with ProcessPoolExecutor(20, SPAWN) as pool:
        written = list(pool.map(write_steps, outs, [SECONDS] * 20))
    times = sorted(seconds for _, all_times in written for seconds in all_times)
    send_all_kept(store)
    jobs = {job.out: job for job in store.search()}
    for out, (steps, _) in zip(outs, written, strict=True):
        curves = store.series(jobs[out].id, points=10**6)
        assert len(curves["loss_ce", 16]) == len(curves["loss_kl", 4]) == len(curves["lr", 0]) == steps
        assert jobs[out].state == "succeeded"
    median, late = times[len(times) // 2], times[int(0.99 * len(times))]
    print(f"{len(times)} steps; a call takes {1e6 * median:.0f} µs, 99 % under {1e3 * late:.2f} ms")
    assert median < 0.001 and late < 0.01
