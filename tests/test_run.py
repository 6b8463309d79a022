"""``python -m trainers.run`` as a person uses it: real processes, really interrupted."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from filelock import FileLock

import ffn
from trainers.run import main, parse
from trainers.state import STOPPED

SMALL = (
    *("--clips", "48", "--val-clips", "21", "--size", "32", "--batch-size", "16", "--frames", "2", "4"),
    *("--workers", "1", "--device", "cpu", "--precision", "fp32"),
)


def command(out, *more):
    return [sys.executable, "-m", "trainers.run", *SMALL, "--out", str(out), *map(str, more)]


def run(out, *more):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command(out, *more), env=env, capture_output=True, text=True, timeout=300)


def weights(folder):
    return torch.load(folder / "last.pt", weights_only=True)["model"]


def test_a_run_leaves_everything(tmp_path):
    done = run(tmp_path / "run", "--epochs", 2)
    assert done.returncode == 0, done.stderr
    assert "| network" in done.stdout and "24F" in done.stdout
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *(
            "config.json",
            "metrics.csv",
            "last.pt",
            "best.safetensors",
            "results.json",
            "results.png",
            "run.log",
        ),
        *("run.log", "confusion_2.csv", "confusion_4.csv", ".lock"),
    }
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [(row["epoch"], row["frames"]) for row in rows] == [("1", "2"), ("1", "4"), ("2", "2"), ("2", "4")]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["accuracy"]) == [str(n) for n in (2, 4, 6, 8, 10, 12, 14, 16, 20, 24)]
    model = ffn.load(tmp_path / "run" / "best.safetensors")
    assert model.spec.frames == (2, 4) and model.spec.preprocess.size == 32
    assert model.spec.classes[0] == "moving something left to right"


def test_plain_and_its_mistakes(tmp_path):
    done = run(tmp_path / "run", "--method", "plain", "--frames", 4, "--epochs", 1)
    assert done.returncode == 0, done.stderr
    assert not ffn.load(tmp_path / "run" / "best.safetensors").spec.flexible
    assert "holds a run already: add --resume auto" in run(tmp_path / "run").stderr


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of three epochs that nobody interrupted."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    assert run(folder, "--epochs", 3).returncode == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_resumed_equals_uninterrupted(number, straight, tmp_path):
    broken = tmp_path / "broken"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(broken, "--epochs", 3), env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (broken / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == STOPPED
        assert f"python -m trainers.run --out {broken} --resume auto" in errors
    progress = torch.load(broken / "last.pt", weights_only=True)["progress"]
    assert (progress["epoch"], progress["step"]) > (0, 0)  # nothing saved is lost
    resumed = subprocess.run(
        [sys.executable, "-m", "trainers.run", "--out", str(broken), "--resume", "auto"],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert resumed.returncode == 0, resumed.stderr
    for name, tensor in weights(straight).items():
        assert torch.equal(tensor, weights(broken)[name]), name
    times = {"seconds"}
    rows = [
        [
            {k: v for k, v in row.items() if k not in times}
            for row in csv.DictReader((folder / "metrics.csv").open())
        ]
        for folder in (straight, broken)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "tsm_huge"], "there is no model 'tsm_huge'; choose one of"),
        (["--data", "nothing"], "there is no data 'nothing'"),
        (["--frames", "0", "4"], "frames must be different counts of at least 1"),
        (["--method", "plain"], "method plain trains at one frame count"),
        (["--epochs", "0"], "epochs must be above 0"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--batch-size", "64"], "48 training clips do not fill one batch of 64"),
        (["--resume"], "holds no run to resume"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, sentence, tmp_path, capsys):
    assert main([*SMALL, "--out", str(tmp_path / "run"), *arguments]) == 2
    errors = capsys.readouterr().err
    assert sentence in errors and len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_is_found_however_it_is_written(tmp_path, capsys):
    printed = []
    for recipe in (["--recipe", "tsm-ffn-ssv1"], ["--recipe=tsm-ffn-ssv1"]):
        assert main([*recipe, "--data-root", str(tmp_path), "--print-config"]) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1] and printed[0]["model"] == "tsm_resnet50"


def test_what_a_run_takes_when_it_goes_on(tmp_path):
    """Where it runs may change; what it learns may not, and is not ignored either."""
    assert run(tmp_path, "--epochs", 1).returncode == 0
    assert parse(["--out", str(tmp_path), "--resume", "auto"]).optim.epochs == 1
    changed = ["--workers", "3", "--accumulate", "2", "--clip-norm", "20"]
    config = parse(["--out", str(tmp_path), "--resume", "auto", *changed])
    assert (config.dataset.workers, config.optim.accumulate, config.optim.clip_norm) == (3, 2, 20)
    assert config.frames == (2, 4)
    with pytest.raises(ValueError, match=r"was begun with another .*--lr"):
        parse(["--out", str(tmp_path), "--resume", "auto", "--lr", "0.1", "--epochs", "2"])
    with pytest.raises(ValueError, match=r"was begun with another --epochs"):  # the default, but asked for
        parse(["--out", str(tmp_path), "--resume", "auto", "--epochs", "10"])


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with FileLock(tmp_path / ".lock"):
        done = run(tmp_path, "--epochs", 1)
    assert done.returncode == 2 and "is in use by another run" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_a_full_disk_is_said_so(tmp_path):
    limited = ["bash", "-c", 'ulimit -f 2000; trap "" XFSZ; exec "$@"', "-"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [*limited, *command(tmp_path / "run", "--epochs", 1)]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "last.pt cannot be written (is the disk full?)" in done.stderr


def test_a_damaged_state_is_said_so(tmp_path):
    assert run(tmp_path / "run", "--epochs", 1).returncode == 0
    (tmp_path / "run" / "last.pt").write_bytes(b"nonsense")
    done = run(tmp_path / "run", "--resume")
    assert done.returncode == 2 and "cannot be resumed from" in done.stderr
