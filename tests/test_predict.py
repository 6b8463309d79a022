"""Predictor: any frame count, from any thread."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ffn
from ffn import Predictor
from ffn.video import open_video, preload

ASL = Path(__file__).parents[2] / "shared/data/asl"
CLASSES = ("left", "right", "up", "down", "closer", "away")
COUNTS = (1, 4, 7, 16, 32)


def network(flexible: bool = True):
    """A tiny network whose branches clearly differ."""
    torch.manual_seed(0)
    create = ffn.create_model if flexible else ffn.create_backbone
    model = create("tsm_tiny", len(CLASSES))
    model.spec = replace(model.spec, classes=CLASSES)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight)
    return model


@pytest.fixture(scope="module")
def predictor():
    return Predictor(network())


@pytest.fixture(scope="module")
def video(tmp_path_factory, encode):
    frames = np.random.default_rng(0).integers(0, 255, (40, 96, 128, 3), np.uint8)
    return open_video(encode(tmp_path_factory.mktemp("clip") / "noise.mp4", frames))


@pytest.mark.parametrize(
    "count, frequency", [(1, 4), (4, 4), (5, 4), (6, 8), (11, 8), (12, 16), (16, 16), (32, 16)]
)
def test_any_frame_count(predictor, video, count, frequency):
    prediction = predictor(video, count)
    assert (prediction.frames, prediction.frequency) == (count, frequency)
    assert len(prediction.indices) == count and prediction.indices == sorted(prediction.indices)
    names, probabilities = zip(*prediction.top, strict=True)
    assert len(set(names)) == 5 and set(names) <= set(CLASSES)
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert prediction.probabilities.sum() == pytest.approx(1)
    assert prediction.probabilities.max() == pytest.approx(probabilities[0])
    assert min(prediction.read_ms, prediction.preprocess_ms, prediction.network_ms) > 0


def test_is_the_branch_on_the_preprocessed_clip(predictor, video):
    x = predictor.preprocess(video.read([5, 15, 25, 35]))
    with torch.no_grad():
        logits = predictor.model.branches["4"](x)[0]
    torch.testing.assert_close(predictor(video, 4).probabilities, logits.softmax(0))


def test_plain_network_keeps_its_frequency(video):
    predictor = Predictor(network(flexible=False))
    assert [predictor(video, count).frequency for count in (1, 8, 32)] == [16, 16, 16]
    predictor.frames = (4, 16)  # trained at both, as by mixed sampling
    assert [predictor.frequency_for(count) for count in (1, 8, 32)] == [4, 4, 16]


def test_preloaded_clip_predicts_as_the_file(predictor, video):
    clip = preload(video, range(1, 33), "segment")
    for count in COUNTS:
        torch.testing.assert_close(predictor(clip, count).probabilities, predictor(video, count).probabilities)


def test_video_shorter_than_the_count(tmp_path, predictor, encode, numbered):
    video = open_video(encode(tmp_path / "short.mp4", numbered(3)))
    assert predictor(video, 16).indices == [0] * 5 + [1] * 6 + [2] * 5


def test_threads_at_different_counts_answer_as_one(predictor, video):
    clip = preload(video, range(1, 33), "segment")
    alone = {count: predictor(clip, count).probabilities for count in COUNTS}
    assert not torch.allclose(alone[4], alone[16], atol=1e-3)  # mixed-up branches would show
    counts = list(COUNTS) * 6
    with ThreadPoolExecutor(2) as threads:
        for count, prediction in zip(counts, threads.map(lambda n: predictor(clip, n), counts), strict=True):
            torch.testing.assert_close(prediction.probabilities, alone[count])


def test_no_frames_are_refused(predictor, video):
    with pytest.raises(ValueError, match="at least 1 frame, not 0"):
        predictor(video, 0)


def test_real_clips_at_every_count(predictor):
    if not ASL.is_dir():
        pytest.skip("no real clips beside the project")
    for path in sorted(ASL.glob("*.mkv")):
        clip = preload(open_video(path), COUNTS, "segment", 64)
        for count in COUNTS:
            prediction = predictor(clip, count)
            assert len(prediction.indices) == count and prediction.probabilities.isfinite().all(), path.name
