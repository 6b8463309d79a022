"""Accuracy over frame counts: hand-made predictions, and the command on real checkpoints."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from datasets import place
from parity import needs_goldens, state_dict

import ffn
from ffn.measure import gflops
from ffn.released import load_any
from trainers import report
from trainers.data import create_source
from trainers.evaluate import Settings, _predict, _seed, _separate, check_classes, main
from trainers.outcome import Outcome, together


def outcome(labels, **predictions):
    """Predictions per frame count, as in ``_4=[0, 2]``, made certain."""
    eye = torch.eye(3)
    return Outcome({int(n[1:]): eye[p] for n, p in predictions.items()}, torch.tensor(labels))


def test_accuracy_by_hand():
    result = outcome([0, 1, 2, 2], _4=[0, 1, 2, 0], _8=[1, 1, 0, 0])
    assert result.accuracy == {4: 75.0, 8: 25.0}
    assert result.top(3, 8) == 100.0


def test_accuracy_by_class():
    result = outcome([0, 2, 2, 2], _4=[0, 1, 2, 2])
    made = report.Comparison({"net": result}, {}, {}, None, "here", classes=("a", "b", "c"))
    lines = made.tables(costs=False)[1].splitlines()
    assert lines[0] == "net, by class:"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]
    assert cells == [["a", "1", "100.0"], ["b", "0", ""], ["c", "3", "66.7"]]
    assert made.as_dict()["by_class"] == {"net": {"a": {4: 100.0}, "b": {4: None}, "c": {4: 66.667}}}


def test_separate_training_takes_the_nearest_network_and_ties_go_up():
    plain = {4: outcome([0], _4=[0], _6=[0], _9=[0]), 8: outcome([0], _4=[1], _6=[1], _9=[1])}
    separate = together(plain, lambda count: [ffn.flexible.nearest(plain, count)])
    assert separate.accuracy == {4: 100.0, 6: 0.0, 9: 0.0}
    made = _separate({"a": (4, plain[4]), "b": (8, plain[8])})
    assert made.accuracy == separate.accuracy
    with pytest.raises(ValueError, match="c is a second at 8"):
        _separate({"a": (4, plain[4]), "b": (8, plain[8]), "c": (8, plain[8])})
    ensemble = together(plain, lambda _: [4, 8])
    assert ensemble.probabilities[4].tolist() == [[0.5, 0.5, 0.0]]


def test_an_ensemble_needs_the_same_clips():
    with pytest.raises(ValueError, match="the same clips"):
        together({4: outcome([0], _4=[0]), 8: outcome([0, 1], _4=[0, 1])}, lambda _: [4, 8])


def test_a_cascade_by_hand():
    """Clip 0 is sure at 4 frames, clip 1 at 8, clip 2 never: it takes the last prediction."""
    probabilities = {
        4: torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]),
        8: torch.tensor([[0.0, 1.0], [0.2, 0.8], [0.6, 0.4]]),
        16: torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.4, 0.6]]),
    }
    result = Outcome(probabilities, torch.tensor([0, 1, 1])).cascade((4, 8, 16), 0.8, {4: 1.0, 8: 2.0, 16: 5.0})
    assert result.top1 == 100.0
    assert result.frames == pytest.approx((4 + 12 + 28) / 3)
    assert result.gflops == pytest.approx((1 + 3 + 8) / 3)


def test_markdown():
    assert report.markdown({"a": {2: 1.0, 16: 99.96}}).splitlines() == [
        "| network |  2F |   16F |",
        "|---------|----:|------:|",
        "| a       | 1.0 | 100.0 |",
    ]


def test_classes_must_be_those_of_the_data_set():
    model = ffn.create_backbone("tsm_tiny", 2)
    check_classes(model, "a", ("left", "right"))
    with pytest.raises(ValueError, match="a tells 2 classes apart and the data set has 3"):
        check_classes(model, "a", ("left", "right", "up"))
    model.spec = replace(model.spec, classes=("right", "left"))
    with pytest.raises(ValueError, match="'right' stands where the data set has 'left'"):
        check_classes(model, "a", ("left", "right"))


@needs_goldens
def test_released_files_are_read_and_run_nothing(tmp_path):
    torch.save({"state_dict": state_dict("inference_ffn", "tsm")}, tmp_path / "TSM-FFN.pth.tar")
    assert load_any(tmp_path / "TSM-FFN.pth.tar").spec.frames == (4, 8, 16)
    torch.save({"state_dict": subprocess.Popen}, tmp_path / "evil.pth")
    with pytest.raises(ffn.CheckpointError, match="could run code"):
        load_any(tmp_path / "evil.pth")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """An untrained frame-flexible network and a plain one, for Motion at 32 pixels."""
    folder, classes = (
        tmp_path_factory.mktemp("checkpoints"),
        tuple(create_source("motion", "val", size=32).classes),
    )
    for name, model in {
        "flexible": ffn.create_model("tsm_tiny", len(classes), (2, 4)),
        "plain": ffn.create_backbone("tsm_tiny", len(classes)),
    }.items():
        preprocess = ffn.Preprocess(size=32, resize=32)
        model.spec = replace(model.spec, classes=classes, preprocess=preprocess)
        ffn.save(model, folder / f"{name}.safetensors")
    return [folder / "flexible.safetensors", folder / "plain.safetensors"]


def command(*arguments, before=("-m",)):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, *before, "trainers.evaluate", *map(str, arguments)]
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=300)


def names(table):
    """The first column of a Markdown table, without its head."""
    return [line.split("|")[1].strip() for line in table.splitlines()[2:] if line.startswith("|")]


@pytest.mark.slow
def test_the_command_puts_checkpoints_side_by_side(checkpoints, tmp_path):
    files = {kind: tmp_path / f"figures.{kind}" for kind in ("csv", "json", "plot")}
    done = command(
        *(*checkpoints, "--frames", 1, 2, "--clips", 21, "--separate", "--cascade", 1, 2),
        *("--confidence", 1, "--by-class"),
        *("--paper", "tsm-ffn-ssv1", "--csv", files["csv"], "--json", files["json"], "--plot", files["plot"]),
    )
    assert done.returncode == 0, done.stderr
    top1, *by_class, costs, cascade = done.stdout.split("\n\n")[1::2]
    assert len(by_class) == 3 and all(len(names(table)) == 21 for table in by_class)
    assert names(top1) == ["flexible", "plain", "separate training", "paper"]
    assert names(costs) == ["flexible", "flexible", "plain", "plain"]
    assert names(cascade) == ["flexible", "plain"]
    rows = list(csv.DictReader(files["csv"].open()))
    assert [(row["network"], row["frames"]) for row in rows[:2]] == [("flexible", "1"), ("flexible", "2")]
    model = ffn.load(checkpoints[0])
    assert float(rows[1]["gflops"]) == pytest.approx(gflops(model, 2, 32))
    written = json.loads(files["json"].read_text())
    assert written["clips"] == 21 and written["unreadable"] == [] and written["paper"]["4"] == 42.85
    assert len(written["by_class"]["plain"]) == 21
    assert written["cascade"]["plain"]["frames"] == 3  # never sure: both counts were taken
    assert files["plot"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_two_processes_count_every_clip_once(checkpoints, tmp_path):
    common = (checkpoints[0], "--frames", 2, "--clips", 21, "--no-costs", "--device", "cpu", "--json")
    alone = command(*common, tmp_path / "1.json")
    shared = command(
        *common,
        tmp_path / "2.json",
        before=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"),
    )
    assert alone.returncode == shared.returncode == 0, alone.stderr + shared.stderr
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert one == two and one["clips"] == 21
    assert alone.stdout == shared.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name at least one checkpoint"),
        (["none.safetensors"], "there is no checkpoint"),
        (["none.safetensors", "--cascade", "8", "4"], "a cascade needs frame counts that ascend"),
        (["none.safetensors", "--paper", "tsm"], "there is no recipe 'tsm'"),
        (["none.safetensors", "--frames", "0"], "must be at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_networks_that_held_out_other_clips_are_not_joined(tmp_path, clip, capsys):
    place(clip, *(tmp_path / "data" / name / f"{i}.mp4" for name in "ab" for i in range(9)))
    paths = []
    for seed in (0, 1):
        model = ffn.create_backbone("tsm_tiny", 2)
        model.spec = replace(model.spec, classes=("a", "b"), frames=(4 + seed,))
        paths.append(str(tmp_path / f"{seed}.safetensors"))
        ffn.save(model, paths[-1], seed=seed)
    options = ["--data", "folder", "--data-root", str(tmp_path / "data"), "--frames", "2", "--no-costs"]
    assert main([*paths, *options, "--ensemble", "--workers", "0"]) == 2
    assert "need checkpoints of one split" in capsys.readouterr().err


def test_views_of_a_video_are_averaged_as_probabilities():
    model = ffn.create_backbone("tsm_tiny", 3).eval()
    clips = torch.randint(256, (4, 2, 32, 32, 3), dtype=torch.uint8)  # two videos of two views each
    with torch.no_grad():
        got = _predict(model, clips, videos=2)
        views = model(model.spec.preprocess.normalise(clips)).softmax(1)
    assert torch.allclose(got[1], (views[2] + views[3]) / 2)


def test_clips_that_a_network_was_trained_on_do_not_test_it(tmp_path):
    path = tmp_path / "best.safetensors"
    ffn.save(ffn.create_backbone("tsm_tiny", 2), path, seed=7)
    assert _seed(Settings((path,)), path) == 7 and _seed(Settings((path,), seed=3), path) == 3
