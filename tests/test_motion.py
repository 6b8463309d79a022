"""The Motion data set: repeatable, balanced, and moving the way its class names say."""

import subprocess
import sys
from itertools import pairwise

import cv2
import numpy as np
import pytest

from trainers.data.motion import CLASSES, Motion, MotionClip, write_clip, write_folder

# class: (which moment of the optical flow, its sign); x rightwards, y downwards, turn clockwise on the screen
EXPECTED = {
    "moving something left to right": ("x", 1),
    "moving something right to left": ("x", -1),
    "moving something up": ("y", -1),
    "moving something down": ("y", 1),
    "moving something closer": ("growth", 1),
    "moving something away": ("growth", -1),
    "turning something clockwise": ("turn", 1),
    "turning something anticlockwise": ("turn", -1),
    "camera panning left": ("x", 1),
    "camera panning right": ("x", -1),
    "camera zooming in": ("growth", 1),
    "camera zooming out": ("growth", -1),
}


def clip_of(name: str, seed: int = 0, **kwargs) -> MotionClip:
    return MotionClip(CLASSES.index(name), seed, **kwargs)


def flow_moments(clip: MotionClip) -> dict[str, float]:
    """Translation, growth and turn about the centre of what moves, summed over the clip's optical flow."""
    frames = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in clip.read(range(0, clip.num_frames, 2))]
    y, x = np.mgrid[: clip.height, : clip.width]
    total = {"x": 0.0, "y": 0.0, "growth": 0.0, "turn": 0.0}
    for before, after in pairwise(frames):
        flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 11, 2, 5, 1.1, 0)
        u, v = flow[..., 0], flow[..., 1]
        weight = np.hypot(u, v) + 1e-6
        dx, dy = x - np.average(x, weights=weight), y - np.average(y, weights=weight)
        total["x"] += u.sum()
        total["y"] += v.sum()
        total["growth"] += (u * dx + v * dy).sum()
        total["turn"] += (v * dx - u * dy).sum()
    return total


@pytest.mark.parametrize("name", EXPECTED)
def test_content_moves_as_the_class_says(name):
    moment, sign = EXPECTED[name]
    clips = [clip_of(name, seed) for seed in range(16)]
    agreeing = sum(np.sign(flow_moments(clip)[moment]) == sign for clip in clips)
    assert agreeing >= 12, f"{agreeing} of 16 clips agree"


def test_pan_shifts_the_whole_picture():
    window = cv2.createHanningWindow((64, 64), cv2.CV_32F)
    for name, sign in (("camera panning left", 1), ("camera panning right", -1)):
        shifts = []
        for seed in range(12):
            frames = clip_of(name, seed).read(range(32)).mean(-1).astype(np.float32)
            pairs = pairwise(frames)
            shifts.append(sum(cv2.phaseCorrelate(a, b, window)[0][0] for a, b in pairs))
        assert np.sign(np.median(shifts)) == sign and np.median(np.abs(shifts)) > 10


@pytest.mark.parametrize("name", CLASSES)
def test_frames_do_not_depend_on_the_other_indices(name):
    seed = 5
    frames = clip_of(name, seed).read(range(32))
    assert frames.shape == (32, 64, 64, 3) and frames.dtype == np.uint8
    clip_of(name, seed + 1).read([0])  # another scene in between
    np.testing.assert_array_equal(clip_of(name, seed).read([9, 30, 9, 2]), frames[[9, 30, 9, 2]])


def test_same_scene_at_every_size():
    for name in CLASSES[::4]:
        small = clip_of(name, 3).read([16])[0]
        large = cv2.resize(
            clip_of(name, 3, height=128, width=128).read([16])[0], (64, 64), None, 0, 0, cv2.INTER_AREA
        )
        blurred = [cv2.GaussianBlur(f.astype(np.float32), (0, 0), 2).ravel() for f in (small, large)]
        assert np.corrcoef(blurred)[0, 1] > 0.95


def test_wide_frames_and_single_frames():
    assert clip_of("camera panning left", height=48, width=80).read([0, 31]).shape == (2, 48, 80, 3)
    assert clip_of("something appearing", num_frames=1).read([0]).shape == (1, 64, 64, 3)
    assert clip_of("something appearing").read([]).shape == (0, 64, 64, 3)


def test_frames_outside_the_clip_are_refused():
    for index in (-1, 32):
        with pytest.raises(IndexError, match=r"\[0, 32\)"):
            clip_of("shaking something").read([0, index])


def test_classes_are_balanced_and_splits_share_no_seed():
    train, val = Motion("train"), Motion("val")
    assert (len(train), len(val)) == (12600, 630) and len(set(CLASSES)) == len(CLASSES) == 21
    for source in (train, val):
        counts = np.bincount([source.label(i) for i in range(len(source))], minlength=len(CLASSES))
        assert counts.min() == counts.max()
    seeds = [{source.open(i).seed for i in range(len(source))} for source in (train, val)]
    assert seeds[0].isdisjoint(seeds[1]) and len(seeds[0]) == len(train)
    assert train.open(22).label == train.label(22) == 1


def test_training_clips_begin_calm():
    train, val = Motion("train", 84), Motion("val", 84)
    clutter = [train.open(i).clutter for i in range(84)]
    assert set(clutter[:22]) == {0} and clutter == sorted(clutter) and set(clutter[42:]) == {1}
    assert train.gradual and not val.gradual and {val.open(i).clutter for i in range(84)} == {1}
    calm, full = (MotionClip(0, 5, clutter=clutter) for clutter in (0, 1))
    assert (calm.read([0]) != full.read([0])).any()


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("test",), "split must be one of train, val"),
        (("train", 10, 15), "size must be at least 16 pixels, got 15x15"),
        (("train", 10, 64, 0), "at least 1 frame"),
        (("train", -1), "0 clips"),
    ],
)
def test_wrong_options_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Motion(*arguments)


def test_clip_index_past_the_end_is_refused():
    with pytest.raises(IndexError, match=r"\[0, 5\)"):
        Motion("val", 5).open(5)


def frames_in(path) -> np.ndarray:
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        more, frame = capture.read()
        if not more:
            return np.stack(frames)[..., ::-1]
        frames.append(frame)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_written_clip_reads_back(tmp_path, suffix):
    frames = clip_of("camera zooming in", 8).read(range(12))
    write_clip(tmp_path / f"clip{suffix}", frames, 12)
    back = frames_in(tmp_path / f"clip{suffix}")
    assert back.shape == frames.shape and np.abs(back.astype(int) - frames).mean() < 12
    assert [p.name for p in tmp_path.iterdir()] == [f"clip{suffix}"]  # no temporary file left


def test_wrong_clips_are_not_written(tmp_path):
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    for name, wrong in (
        ("a.gif", frames),
        ("a.mp4", frames[:, 1:]),
        ("a.mp4", frames / 255.0),
        ("a.mp4", frames[:0]),
    ):
        with pytest.raises(ValueError):
            write_clip(tmp_path / name, wrong, 12)
    assert not list(tmp_path.iterdir())


def test_folder_holds_the_clips_and_keeps_what_is_there(tmp_path):
    write_folder(tmp_path, clips_per_class=1, val_per_class=1, size=32, num_frames=6)
    for split in ("train", "val"):
        assert sorted(p.name for p in (tmp_path / split).iterdir()) == sorted(CLASSES)
    path = tmp_path / "val" / CLASSES[3] / "00000.mp4"
    clip = Motion("val", 21, 32, 6).open(3)
    assert np.abs(frames_in(path).astype(int) - clip.read(range(6))).mean() < 12
    path.write_bytes(b"kept")
    write_folder(tmp_path, clips_per_class=1, val_per_class=1, size=32, num_frames=6)
    assert path.read_bytes() == b"kept"


def test_command_refuses_small_sizes_in_one_sentence(tmp_path):
    command = [sys.executable, "-m", "trainers.data.motion", str(tmp_path / "out"), "--size", "8"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == "error: size must be at least 16 pixels, got 8x8"
    assert not (tmp_path / "out").exists()
