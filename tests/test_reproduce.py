"""The experiment's plan and its tables, from results written by hand."""

import json

import pytest

from trainers.config import Config
from trainers.experiment import NETWORKS, QUICK, Run, runs
from trainers.reproduce import main, train
from trainers.results import Results, any_frame, tables, write


def test_every_planned_run_is_a_run_once():
    plan = list(runs((0, 1), tuple(NETWORKS)))
    assert len({run.name for run in plan}) == len(plan) == 2 * 4 * 5 + 13
    assert plan[4].name == "tsm_tiny-ffn-seed0" and all(run.seed == 1 for run in plan[-20:])
    before = set()
    for run in [*plan, *runs((0,), tuple(NETWORKS), QUICK)]:
        chosen = run.settings | {"model": run.model, "init": "x" if run.after else None}
        assert run.members or Config().with_fields(chosen).resolved()
        assert set(run.needs) <= before
        before.add(run.name)
    assert plan[0].settings["epochs"] > plan[4].settings["epochs"]


@pytest.fixture
def results(tmp_path):
    def put(model, label, seed, *top1):
        accuracy = dict(zip((4, 8, 12, 16), (*top1[:2], top1[1], top1[2]), strict=True))
        folder = tmp_path / f"{model}-{label}-seed{seed}"
        folder.mkdir()
        rest = {"top5": accuracy, "gflops": {4: 1, 8: 2, 12: 3, 16: 4}, "parameters": 390_000}
        (folder / "results.json").write_text(json.dumps({"accuracy": accuracy} | rest))

    for seed, more in ((0, 0.0), (1, 2.0)):
        put("tsm_tiny", "ffn", seed, 70 + more, 80 + more, 85 + more)
        put("tsm_tiny", "base", seed, 40, 60, 82)
        put("tsm_tiny", "st4", seed, 69 + more, 50, 20)
        put("tsm_tiny", "st8", seed, 55, 77 + more, 60)
    return Results.read(tmp_path, list(runs((0, 1), tuple(NETWORKS))))


def test_tables_hold_mean_and_spread_over_seeds(results):
    text = "\n".join(tables(results))
    one = text.split("## Table 2")[0]
    assert "| 70.0 | 80.0 | 85.0 |" in one and "±" not in one  # table 1 stays within the first seed
    assert "71.0 ± 1.4 | 81.0 ± 1.4 | 86.0 ± 1.4" in text  # FFN
    assert "70.0 ± 1.4 | 78.0 ± 1.4 | 82.0 ± 0.0" in text  # separate: at each count the network trained there
    assert "40.0 ± 0.0 | 60.0 ± 0.0 | 82.0 ± 0.0" in text
    assert "mixed" not in text and "tea_tiny" not in text  # not done


def test_means_are_of_the_seeds_that_every_row_has(results):
    results.runs["tsm_tiny", "base", 2] = {"accuracy": {"4": 99, "8": 99, "12": 99, "16": 99}, "parameters": 1}
    results.runs["tea_tiny", "base", 1] = results.runs["tsm_tiny", "base", 2]
    results.runs["tea_tiny", "base", 0] = results.runs["tsm_tiny", "base", 0]
    text = "\n".join(tables(results))
    assert "40.0 ± 0.0 | 60.0 ± 0.0 | 82.0 ± 0.0" in text and "99" not in text
    assert any_frame(results, "tsm_tiny")["trained at H"][16] == 82


def test_everything_is_written(results, tmp_path):
    write(tmp_path / "out", results, {"machine": "a laptop"})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.md", "results.csv", "any_frame.png", "figures.html"}
    assert "a laptop" in (tmp_path / "out" / "results.md").read_text()
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 1 + 8 * 4


def test_mistakes_and_missing_starts(tmp_path):
    with pytest.raises(ValueError, match="--only takes tsm_tiny"):
        main(out=tmp_path, only=("resnet",))
    run = Run("tsm_tiny", "finetune", {}, after="base")
    assert "needs" in train(run, tmp_path, tmp_path, 1) and "base-seed0" in train(run, tmp_path, tmp_path, 1)


def test_separate_networks_may_have_been_measured_at_other_counts(tmp_path):
    """SlowFast's at 8 frames up to 24, at 32 frames up to 48."""
    for label, counts in (("st8", (8, 24)), ("st16", (8, 16)), ("base", (8, 16, 28, 32)), ("start", (8, 24))):
        folder = tmp_path / f"slowfast_tiny-{label}-seed0"
        folder.mkdir()
        accuracy = {n: 50 + n + len(label) for n in counts}
        rest = {"top5": accuracy, "gflops": {n: n for n in counts}, "parameters": 1}
        (folder / "results.json").write_text(json.dumps({"accuracy": accuracy} | rest))
    found = Results.read(tmp_path, list(runs((0,), ("slowfast_tiny",))))
    assert found.seeds("slowfast_tiny", "separate") == [{8: 61, 16: 70, 28: 82, 32: 86}]
    assert found.gflops("slowfast_tiny") == {8: 8, 16: 16, 24: 24, 28: 28, 32: 32}
    write(tmp_path / "out", found, {})
