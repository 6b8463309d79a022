"""``python -m trainers.jobs`` in this process, on a real database."""

import pytest

from trainers.jobs.__main__ import main
from trainers.jobs.store import Store


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("FFN_RUNS", str(tmp_path / "runs"))


def test_add_list_stop_resume(tmp_path, capsys):
    out = str(tmp_path / "runs" / "a")
    assert main(["add", "--gpus", "2", "--", "--epochs", "3", "--out", out]) == 0
    assert main(["stop", "1"]) == 0
    job = Store().get(1)
    assert (job.state, job.devices, job.out) == ("cancelled", 2, out) and "--epochs 3" in " ".join(job.command)
    assert main(["resume", "1"]) == 0
    capsys.readouterr()
    assert main(["list"]) == 0
    assert capsys.readouterr().out.split() == ["1", "queued", "epoch", "0/3", out]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["stop", "7"], "trainers.jobs: there is no job 7"),
        (["resume", "7"], "trainers.jobs: there is no job 7"),
        (["add", "--", "--out", "x", "--epochs", "0"], "trainers.jobs: epochs must be above 0"),
        (["add", "--cluster", "moon", "--", "--out", "x"], "trainers.jobs: there is no cluster 'moon'"),
    ],
)
def test_mistakes_are_one_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(sentence) and len(said.splitlines()) == 1
