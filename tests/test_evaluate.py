"""Accuracy over frame counts: hand-made predictions, and the command on real checkpoints."""

import os
import subprocess
import sys

import pytest
import torch

import ffn
from trainers import report
from trainers.evaluate import Outcome, together


def outcome(labels, **predictions):
    """Predictions per frame count, as in ``_4=[0, 2]``, made certain."""
    eye = torch.eye(3)
    return Outcome({int(n[1:]): eye[p] for n, p in predictions.items()}, torch.tensor(labels))


def test_accuracy_by_hand():
    result = outcome([0, 1, 2, 2], _4=[0, 1, 2, 0], _8=[1, 1, 0, 0])
    assert result.accuracy == {4: 75.0, 8: 25.0}
    assert result.top(3, 8) == 100.0


def test_separate_training_takes_the_nearest_network_and_ties_go_up():
    plain = {4: outcome([0], _4=[0], _6=[0], _9=[0]), 8: outcome([0], _4=[1], _6=[1], _9=[1])}
    separate = together(plain, lambda count: [ffn.flexible.nearest(plain, count)])
    assert separate.accuracy == {4: 100.0, 6: 0.0, 9: 0.0}
    ensemble = together(plain, lambda _: [4, 8])
    assert ensemble.probabilities[4].tolist() == [[0.5, 0.5, 0.0]]


def test_markdown():
    assert report.markdown({"a": {2: 1.0, 16: 99.96}}).splitlines() == [
        "| network |  2F |   16F |",
        "|---------|----:|------:|",
        "| a       | 1.0 | 100.0 |",
    ]


def command(*arguments):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "trainers.evaluate", *map(str, arguments)]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_command_puts_checkpoints_side_by_side(tmp_path):
    ffn.save(ffn.create_model("tsm_tiny", 21, (2, 4)), tmp_path / "flexible.safetensors")
    ffn.save(ffn.create_backbone("tsm_tiny", 21), tmp_path / "plain.safetensors")
    done = command(
        tmp_path / "flexible.safetensors", tmp_path / "plain.safetensors", "--frames", 1, 2, "--separate"
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()]
    assert [row for row in rows if row.strip("-")] == ["network", "flexible", "plain", "separate training"]


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    done = command(tmp_path / "none.safetensors")
    assert done.returncode == 2 and "there is no checkpoint" in done.stderr and "Traceback" not in done.stderr
