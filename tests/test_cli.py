"""``python -m ffn`` as a person uses it: on real files, and with what goes wrong."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import ffn
from ffn.__main__ import main
from ffn.adaptive import BudgetError, LatencyCurve, cascade
from ffn.video import open_video, preload

CLASSES = ("left", "right", "up", "down")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ffn.create_model("tsm_tiny", len(CLASSES))
    model.spec = replace(model.spec, classes=CLASSES)
    torch.nn.init.normal_(model.branches["4"].fc.weight, std=5)
    return model


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "net.safetensors"
    ffn.save(model, path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory, encode):
    """A folder of two good clips, one of them deeper, a damaged one and a text."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    for i, name in enumerate(("a.mp4", "more/c.mp4")):
        frames = np.random.default_rng(i).integers(0, 255, (20, 96, 128, 3), np.uint8)
        encode(folder / name, frames)
    (folder / "b.mp4").write_bytes((folder / "a.mp4").read_bytes()[:2000])
    (folder / "notes.txt").write_text("no clip")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FFN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(capsys):
    """Exit code, standard output and standard error of a command."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


# predict


def test_a_folder_with_a_damaged_clip(run, checkpoint, clips):
    code, out, err = run("predict", checkpoint, clips, "--frames", 6, "--top", 2)
    assert code == 1
    assert "a.mp4: 6 frames, sub-network 8" in out and "c.mp4: 6 frames" in out and out.count("%") == 4
    assert "b.mp4" in err and "b.mp4" not in out and len(err.splitlines()) == 1


def test_json_agrees_with_the_library(run, checkpoint, clips, model):
    code, out, err = run("predict", checkpoint, clips / "a.mp4", "--json")
    assert (code, err) == (0, "")
    (answer,) = json.loads(out)
    expected = ffn.Predictor(model)(open_video(clips / "a.mp4"), 16)
    assert (answer["frames"], answer["frequency"], answer["indices"]) == (16, 16, expected.indices)
    assert [entry["class"] for entry in answer["top"]] == [name for name, _ in expected.top]
    assert answer["top"][0]["probability"] == pytest.approx(expected.top[0][1], rel=1e-3)
    assert min(answer["latency_ms"].values()) > 0


def test_patterns_and_clips_named_twice(run, checkpoint, clips):
    code, out, _ = run("predict", checkpoint, clips / "*.mp4", clips / "a.mp4", clips / "more", "--json")
    assert code == 1
    assert [answer["clip"] for answer in json.loads(out)] == [str(clips / "a.mp4"), str(clips / "more/c.mp4")]


def test_names_that_stand_for_nothing(run, checkpoint, clips, tmp_path):
    for name in (clips / "*.webm", clips / "absent.mp4", tmp_path):
        code, out, err = run("predict", checkpoint, name)
        assert code == 1 and out == "" and str(name) in err and len(err.splitlines()) == 1


def test_as_a_process_without_a_terminal(checkpoint, clips):
    command = [sys.executable, "-m", "ffn", "predict", checkpoint, clips, "--json"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 1 and len(json.loads(done.stdout)) == 2
    assert len(done.stderr.splitlines()) == 1  # no progress bar


# budget


class Clockwork(LatencyCurve):
    """A network that takes 10 ms and 2 more for each frame."""

    measured = 0

    def _measure(self, frames):
        self.measured += 1
        return 10.0 + 2 * frames


@pytest.mark.parametrize(("budget", "frames"), [(12, 1), (13.9, 1), (14, 2), (40, 15), (73, 31), (1e6, 32)])
def test_the_most_frames_that_fit(budget, frames, model):
    curve = Clockwork(ffn.Predictor(model))
    assert curve.most_frames(budget) == frames
    assert curve.measured <= 7
    assert curve.most_frames(budget, (1, 32)) == (32 if frames == 32 else 1)


def test_a_budget_that_nothing_fits(model):
    with pytest.raises(BudgetError, match=r"a budget of 5 ms is too small: 1 frame takes 12\.0 ms here"):
        Clockwork(ffn.Predictor(model)).most_frames(5)
    for budget in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="must be above 0 ms"):
            Clockwork(ffn.Predictor(model)).most_frames(budget)


def test_latencies_are_measured_once_for_the_same_weights(model, tmp_path):
    first = LatencyCurve(ffn.Predictor(model), tmp_path)
    assert first[2] > 0
    again = LatencyCurve(ffn.Predictor(model), tmp_path)
    assert again.points == first.points and again[2] == first[2]
    other = ffn.create_model("tsm_tiny", len(CLASSES))
    assert LatencyCurve(ffn.Predictor(other), tmp_path).points == {}
    (stored,) = tmp_path.iterdir()
    stored.write_text("{damaged")
    assert LatencyCurve(ffn.Predictor(model), tmp_path).points == {}
    (tmp_path / "file").write_text("")
    assert LatencyCurve(ffn.Predictor(model), tmp_path / "file")[1] > 0  # no folder: kept nowhere


def test_budget_on_the_command_line(run, checkpoint, clips, cache):
    code, out, _ = run("predict", checkpoint, clips / "a.mp4", "--budget-ms", 1e6, "--json")
    assert code == 0 and json.loads(out)[0]["frames"] == 32
    (stored,) = cache.iterdir()
    assert set(json.loads(stored.read_text())) >= {"1", "32"}
    code, out, err = run("predict", checkpoint, clips / "a.mp4", "--budget-ms", 1e-6)
    assert (code, out) == (2, "") and "is too small: 1 frame takes" in err and len(err.splitlines()) == 1


# cascade


def test_cascade_stops_when_sure(model, clips):
    predictor = ffn.Predictor(model)
    clip = preload(open_video(clips / "a.mp4"), (4, 8, 16), "segment")
    sure = [predictor(clip, count).probabilities.max().item() for count in (4, 8, 16)]
    for confidence in (0, *sure, 1):
        prediction, tried = cascade(predictor, clip, (4, 8, 16), confidence)
        enough = [i for i, p in enumerate(sure) if p >= confidence]
        assert len(tried) == (enough[0] + 1 if enough else 3)
        assert prediction is tried[-1] and [p.frames for p in tried] == [4, 8, 16][: len(tried)]


def test_cascade_on_the_command_line(run, checkpoint, clips):
    options = ("--cascade", 4, 8, "--confidence")
    code, out, _ = run("predict", checkpoint, clips / "a.mp4", *options, 0)
    assert code == 0 and "4 frames" in out and "(sure enough; tried 4)" in out
    _, out, _ = run("predict", checkpoint, clips / "a.mp4", *options, 1, "--json")
    (answer,) = json.loads(out)
    assert answer["frames"] == 8 and [t["frames"] for t in answer["tried"]] == [4, 8]


# the other commands


def test_convert_writes_our_form(run, tmp_path):
    source = ffn.create_backbone("tsm_resnet18", 3)
    torch.save({"state_dict": released_names(source)}, tmp_path / "net.pth")
    (tmp_path / "labels.txt").write_text("up\ndown\nleft\n")
    out = tmp_path / "net.safetensors"
    code, said, _ = run("convert", tmp_path / "net.pth", out, "--labels", tmp_path / "labels.txt")
    assert code == 0 and str(out) in said
    again = ffn.load(out)
    assert again.spec.classes == ("up", "down", "left")
    assert torch.equal(again.fc.weight, source.fc.weight)


def released_names(model):
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("fc.", "new_fc.", 1) if name.startswith("fc.") else f"base_model.{name}"
        state[f"module.{name}"] = tensor
    return state


def test_download_of_what_does_not_exist(run):
    code, _, err = run("download", "tsm-imagenet")
    assert code == 2 and "tsm-ffn-ssv1" in err and len(err.splitlines()) == 1


def test_export_in_any_order(run, checkpoint, tmp_path, model):
    out = tmp_path / "net.pt2"
    code, said, _ = run("export", checkpoint, "--frames", 4, "--format", "torch", out)
    assert code == 0 and "(batch, 3, 4, 64, 64)" in said
    clip = torch.randn(3, 3, 4, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.export.load(out).module()(clip), model.eval()(clip), rtol=1e-3, atol=1e-3
        )


def test_benchmark_prints_and_writes(run, tmp_path):
    threads = torch.get_num_threads()
    options = ("--models", "tsm_tiny", "--frames", 2, "--size", 32, "--repeats", 2, "--threads", threads)
    code, out, err = run("benchmark", *options, "--num-classes", 5, "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out.startswith("| network | form |") and "| tsm_tiny | deployed | 2 |" in out
    assert f"PyTorch {torch.__version__}" in out
    assert len(list(csv.reader((tmp_path / "out/benchmark.csv").open()))) == 4


def test_models_lists_parameters(run):
    code, out, _ = run("models", "tsm_tiny")
    assert code == 0 and len(out.splitlines()) == 2 and "4/8/16" in out
    assert f"{sum(p.numel() for p in ffn.create_backbone('tsm_tiny', 174).parameters()):,}" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "absent.safetensors", "x.mp4"], "there is no checkpoint absent.safetensors"),
        (["predict", "{checkpoint}"], "name at least one clip"),
        (["predict", "{checkpoint}", "x.mp4", "--frames", "0"], "at least 1 frame"),
        (["predict", "{checkpoint}", "x.mp4", "--top", "0"], "--top must be at least 1"),
        (
            ["predict", "{checkpoint}", "x.mp4", "--frames", "4", "--budget-ms", "5"],
            "one of --frames, --budget-ms",
        ),
        (["predict", "{checkpoint}", "x.mp4", "--budget-ms", "-5"], "above 0 ms"),
        (["predict", "{checkpoint}", "x.mp4", "--cascade", "8", "4"], "frame counts that ascend"),
        (["predict", "{checkpoint}", "x.mp4", "--cascade", "0", "4"], "at least 1 frame"),
        (["predict", "{checkpoint}", "x.mp4", "--cascade", "4", "--confidence", "80"], "from 0 to 1, not 80"),
        (["predict", "{checkpoint}", "x.mp4", "--device", "abacus"], "give cpu, cuda or auto"),
        (["convert", "absent.pth", "out"], "there is no checkpoint absent.pth"),
        (["export", "{checkpoint}", "out", "--frames", "0"], "at least 1 frame"),
        (["benchmark", "--models", "vgg*"], "no network is called 'vgg*'"),
        (["benchmark", "--frames", "0"], "at least 1"),
        (["benchmark", "--threads", "0"], "--threads must be at least 1"),
        (["models", "vgg"], "no network is called 'vgg'"),
    ],
)
def test_mistakes_end_in_one_sentence(run, checkpoint, arguments, sentence):
    code, out, err = run(*(argument.format(checkpoint=checkpoint) for argument in arguments))
    assert (code, out) == (2, "") and sentence in err and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [["fly"], ["predict"], ["export", "a", "b", "--frames", "many"], ["--fast"]]
)
def test_usage_errors(arguments, run):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
