"""Several processes (gloo, on the CPU), started by torchrun: the same run as one process."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from test_run import SMALL

from trainers.distributed import SyncBatchNorm, _buckets
from trainers.state import STOPPED

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ALIKE = ("--dropout", "0", "--sync-norm", "--workers", "0")  # what else differs between one process and two
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def start(launcher, out, *more):
    command = [*launcher, "-m", "trainers.run", *SMALL, *ALIKE, "--out", str(out), *map(str, more)]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return out


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return [
            {key: float(value or "nan") for key, value in row.items() if key != "seconds"}
            for row in csv.DictReader(file)
        ]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    # Adam makes steps of full length even of gradients that are all rounding: short ones keep the two together.
    how = ("--epochs", 3, "--clip-norm", 1, "--lr", 3e-4)
    finish(start([sys.executable], tmp_path / "one", *how))
    finish(start(TORCHRUN, tmp_path / "two", *how))
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert one == pytest.approx(two, rel=2e-3, abs=1e-5, nan_ok=True), (one, two)
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two")]
    assert len(states[1]["generators"]) == 2
    for name, tensor in states[0]["model"].items():
        torch.testing.assert_close(tensor, states[1]["model"][name], rtol=1e-2, atol=1e-3, msg=name)
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0]["clips"] == results[1]["clips"] == 21  # odd: every clip once, none to fill up


@pytest.mark.slow
def test_torchrun_restarts_a_run_from_its_last_checkpoint(tmp_path):
    process = start((*TORCHRUN, "--max-restarts=1"), tmp_path / "run", "--epochs", 4)
    wait_for(tmp_path / "run" / "last.pt", process)
    child = psutil.Process(process.pid).children()[0]
    epoch = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["progress"]["epoch"]
    child.send_signal(signal.SIGKILL)
    finish(process)
    log = (tmp_path / "run" / "run.log").read_text()
    assert [log.count(f"epoch {n}/4") for n in range(1, epoch + 1)] == [1] * epoch  # not from the start
    assert [row["epoch"] for row in rows(tmp_path / "run")] == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.slow
def test_a_stopped_group_of_processes_saves_and_resumes(tmp_path):
    process = start(TORCHRUN, tmp_path / "run", "--epochs", 50)
    wait_for(tmp_path / "run" / "last.pt", process)
    psutil.Process(process.pid).children()[-1].send_signal(signal.SIGTERM)  # the others stop with it
    errors = process.communicate(timeout=120)[1]
    assert f"exitcode  : {STOPPED}" in errors and "Stopped; nothing is lost" in errors
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert 1 <= state["progress"]["epoch"] < 50


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists(), process.communicate(timeout=60)[1]


def test_buckets_hold_everything_in_order(monkeypatch):
    monkeypatch.setattr("trainers.distributed.BUCKET", 10)
    sizes = [4, 4, 4, 20, 1, 1]
    tensors = [torch.zeros(n) for n in sizes] + [torch.zeros(3, dtype=torch.float64)]
    buckets = list(_buckets(tensors))
    assert [t.numel() for bucket in buckets for t in bucket] == [*sizes, 3]
    assert all(len({t.dtype for t in bucket}) == 1 for bucket in buckets)
    assert [sum(t.numel() for t in bucket) for bucket in buckets] == [8, 4, 20, 2, 3]


def test_synchronised_norm_of_one_process_is_the_plain_one(monkeypatch):
    plain, ours = torch.nn.BatchNorm3d(4), torch.nn.BatchNorm3d(4)
    ours.__class__ = SyncBatchNorm
    monkeypatch.setattr("trainers.distributed.world", lambda: 1 + (calls.pop() if calls else 0))
    calls = [1]  # pretends to be many for the first question, so that its own formula is used
    monkeypatch.setattr("trainers.distributed._Sum.apply", lambda x: x)
    x = torch.randn(3, 4, 2, 5, 5)
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.running_var, plain.running_var)
