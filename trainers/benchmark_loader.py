"""How many clips per second the loader decodes, in one process, beside a plain PIL or OpenCV pipeline."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from ffn import Preprocess
from ffn.video import VideoFile
from trainers.data.clips import Clips
from trainers.data.files import Entry, Files
from trainers.data.layouts import TEMPLATES
from trainers.data.motion import write_clip

COUNTS = (4, 8, 16)  # 28 frames a sample
CLIPS, LENGTH = 3, 80
SIZE, VIDEO_SIZE = (256, 341), (480, 640)


def measure_loader(repeats: int = 5) -> list[dict]:
    """One row per way to load: ``clips`` (of what), ``pipeline``, ``ms`` per sample and ``clips_per_second``.

    Best of ``repeats`` passes over a few synthetic clips that lie in the disk's cache; OpenCV and PyTorch run
    on one thread meanwhile.
    """
    threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return [*_frame_folders(Path(folder), repeats), *_videos(Path(folder), repeats)]
    finally:
        torch.set_num_threads(threads[0])
        cv2.setNumThreads(threads[1])


def _frame_folders(root: Path, repeats: int) -> list[dict]:
    for k in range(CLIPS):
        folder = root / str(k)
        folder.mkdir()
        for i, frame in enumerate(_synthetic(k, *SIZE), 1):
            cv2.imwrite(str(folder / TEMPLATES[0].format(i)), frame)
    source = _source(root, [str(k) for k in range(CLIPS)])
    training = Clips(source, COUNTS, Preprocess(), epoch=0, augment="multiscale")
    what = f"{sum(COUNTS)} of {LENGTH} JPEG frames of {SIZE[1]}x{SIZE[0]}"
    return [
        _row(what, "PIL, frame by frame", lambda k: _with_pil(root / str(k), k), repeats),
        _row(what, "this loader", lambda k: training[k], repeats),
    ]


def _videos(root: Path, repeats: int) -> list[dict]:
    paths = [root / f"{k}.mp4" for k in range(CLIPS)]
    for k, path in enumerate(paths):
        write_clip(path, np.stack(list(_synthetic(k, *VIDEO_SIZE))), 30)
    source = _source(root, [path.name for path in paths])
    source.measured = {path.name: [LENGTH, 30.0, *VIDEO_SIZE[::-1]] for path in paths}  # as after a check
    testing = Clips(source, (8,), Preprocess())
    indices = [LENGTH * i // 8 for i in range(8)]
    what = f"8 of {LENGTH} frames of {VIDEO_SIZE[1]}x{VIDEO_SIZE[0]} MPEG-4"
    return [
        _row(what, "OpenCV, every frame decoded and converted", lambda k: _every_frame(paths[k]), repeats),
        _row(
            what, "decoding alone", lambda k: VideoFile(paths[k], LENGTH, 30, 640, 480).read(indices), repeats
        ),
        _row(what, "this loader", lambda k: testing[k], repeats),
    ]


def _source(root: Path, names: list[str]) -> Files:
    return Files(["a"], [Entry(name, root / name, 0, LENGTH) for name in names], TEMPLATES)


def _synthetic(seed: int, height: int, width: int):
    """Smooth noise that drifts, uint8 ``(height, width, 3)``: JPEGs of it weigh as much as photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 4, width // 4 + LENGTH, 3), np.uint8)
    wide = cv2.resize(coarse, (width + LENGTH, height), interpolation=cv2.INTER_CUBIC)
    return (np.ascontiguousarray(wide[:, i : i + width]) for i in range(LENGTH))


def _with_pil(folder: Path, seed: int) -> dict[int, torch.Tensor]:
    """As the usual PIL pipeline does it: each frame of each clip opened, cropped, resized and normalised."""
    rng = np.random.default_rng(seed)
    mean, std = (torch.tensor(v)[:, None, None] for v in (Preprocess().mean, Preprocess().std))
    clips = {}
    for count in COUNTS:
        images = []
        for i in range(count):
            number = LENGTH // count * i + int(rng.integers(LENGTH // count)) + 1
            image = Image.open(folder / TEMPLATES[0].format(number)).convert("RGB")
            images.append(image.crop((40, 20, 264, 212)).resize((224, 224), Image.Resampling.BILINEAR))
        stacked = torch.from_numpy(np.concatenate([np.asarray(image) for image in images], axis=2))
        x = stacked.permute(2, 0, 1).contiguous().float().div(255)
        clips[count] = (x.view(count, 3, 224, 224) - mean) / std
    return clips


def _every_frame(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), []
    while (frame := capture.read()[1]) is not None:
        frames.append(frame)
    capture.release()
    return frames[:: LENGTH // 8]


def _row(clips: str, pipeline: str, load: Callable[[int], object], repeats: int) -> dict:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for k in range(CLIPS):
            load(k)
        best = min(best, time.perf_counter() - start)
    return {
        "clips": clips,
        "pipeline": pipeline,
        "ms": round(1e3 * best / CLIPS, 1),
        "clips_per_second": round(CLIPS / best, 1),
    }
