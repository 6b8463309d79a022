"""``python -m trainers.benchmark``, and the documentation's tables of recipes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.benchmark import Cost, Job, main, measured_apart, rows
from trainers.recipes import RECIPES


def test_a_row_beside_the_released_code():
    head, row = rows({Job("tsm_resnet50"): Cost(7.0, 4.35, "")})
    assert row == ["tsm_resnet50", "fp32", "7.00", "14.0", "0.50", "4.35", "8.7", "0.50"]
    assert len(head) == len(row)


def test_other_work_is_not_compared():
    assert list(rows({Job("tsm_resnet50", size=64): Cost(1.0, 1.0, "")}))[1][3:5] == ["", ""]


def test_the_step_is_the_recipe_s():
    config = Job("tsm_resnet50", "bf16").config
    assert config.optim.optimizer == "sgd" and config.optim.clip_norm == 20.0 and config.network.init is None
    assert config.frames == (4, 8, 16) and config.optim.batch_size == 2 and config.dataset.size == 224


@pytest.mark.slow
def test_the_command_measures_in_processes_of_their_own():
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [
        sys.executable,
        "-m",
        "trainers.benchmark",
        "--models",
        "tsm_tiny",
        "--size",
        "32",
        "--repeats",
        "1",
    ]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in done.stdout.splitlines()[-2:]]
    assert [row[:2] for row in cells] == [["tsm_tiny", "fp32"], ["tsm_tiny", "bf16"]]
    assert all(float(row[2]) > 0 and 0.1 < float(row[5]) < 4 for row in cells)


@pytest.mark.slow
def test_too_little_memory_is_one_sentence():
    limited = Job("tsm_tiny", batch_size=100_000, size=224)  # 0.4 TB of clips
    with pytest.raises(ValueError, match="more memory than there is"):
        measured_apart(limited)


@pytest.mark.parametrize(
    ("arguments", "sentence"), [({"models": ("tsm",)}, "no model 'tsm'"), ({"size": 0}, "at least")]
)
def test_a_mistake_is_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        main(**arguments)


def test_the_documented_recipes_are_those_there_are():
    text = (Path(__file__).parents[1] / "docs" / "reproduce.md").read_text()
    table = re.findall(r"^\| `(\S+)` \| (\d+F .*) \|$", text, re.MULTILINE)
    want = {n: ", ".join(f"{c}F {top1:.2f}" for c, top1 in r.paper.items()) for n, r in RECIPES.items()}
    assert dict(table) == want and list(dict(table)) == list(want)
