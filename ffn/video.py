"""Open and decode video files with OpenCV: frames by number, in one pass.

A *clip source* is anything with ``num_frames``, ``fps`` and ``read(indices)`` -> uint8 RGB
``(len(indices), H, W, 3)``: a video file here, a frame folder or a rendered clip elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ffn.sampling import RULES


class VideoError(ValueError):
    """A video that cannot be used; the message names the file and says why, in one sentence."""


@dataclass(frozen=True)
class Limits:
    """What is accepted of a video that a stranger uploads; None: anything goes."""

    megabytes: float | None = None
    seconds: float | None = None
    pixels: int | None = None


@dataclass(frozen=True)
class VideoFile:
    """A video file that opened; frames are decoded when read."""

    path: Path
    num_frames: int
    fps: float
    width: int
    height: int

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps

    def read(self, indices: Iterable[int], short_side: int | None = None) -> np.ndarray:
        """Decode the frames ``indices`` (any order, repeats allowed) in one pass.

        Frames whose short side exceeds ``short_side`` pixels are scaled down to it while decoding.

        Raises:
            VideoError: if the file ends before the last of them.
        """
        wanted = list(indices)
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise IndexError(f"{self.path.name} has frames 0 to {self.num_frames - 1}, not {wanted}")
        found = {}
        capture = _capture(self.path)
        try:
            position = 0
            for index in sorted(set(wanted)):
                while position <= index:
                    if not capture.grab():
                        return self._cut_short(found, wanted, position)
                    position += 1
                ok, frame = capture.retrieve()
                if not ok:
                    raise VideoError(f"{self.path.name} is damaged: frame {index} cannot be decoded")
                found[index] = _to_rgb(frame, short_side)
        finally:
            capture.release()
        return np.stack([found[i] for i in wanted])

    def _cut_short(self, found: dict[int, np.ndarray], wanted: list[int], end: int) -> np.ndarray:
        # Many healthy files hold a few frames fewer than their header says: the last one stands in.
        if not found or end < 0.9 * self.num_frames - 2:
            raise VideoError(
                f"{self.path.name} is cut off: it ends after {end} of {self.num_frames} frames; "
                "copy or record it again"
            )
        last = found[max(found)]
        return np.stack([found.get(i, last) for i in wanted])


@dataclass(frozen=True)
class LoadedClip:
    """The frames of a video that clips of some frame counts need, decoded once and kept."""

    num_frames: int
    fps: float
    indices: np.ndarray
    frames: np.ndarray
    decode_ms: float

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 ``(len(indices), H, W, 3)``; KeyError for a frame that was not kept."""
        places = np.searchsorted(self.indices, indices)
        if np.any(self.indices[np.minimum(places, len(self.indices) - 1)] != indices):
            raise KeyError(f"frames {list(indices)} were not all kept when this clip was loaded")
        return self.frames[places]


def open_video(path: str | Path, limits: Limits | None = None) -> VideoFile:
    """Open a video file and check that it decodes.

    Raises:
        VideoError: if it is missing, empty, no video, damaged, or over one of ``limits``.
    """
    path, limits = Path(path), limits or Limits()
    if not path.is_file():
        raise VideoError(f"there is no file {path}")
    megabytes = path.stat().st_size / 2**20
    if megabytes == 0:
        raise VideoError(f"{path.name} is empty")
    if limits.megabytes and megabytes > limits.megabytes:
        raise VideoError(
            f"{path.name} has {megabytes:.0f} MB; at most {limits.megabytes:g} MB are taken: "
            "shorten it or record it at a lower resolution"
        )
    capture = _capture(path)
    try:
        width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if limits.pixels and width * height > limits.pixels:
            raise VideoError(
                f"{path.name} has frames of {width}x{height}; at most {limits.pixels:,} pixels are taken: "
                "record it at a lower resolution"
            )
        if not capture.grab():
            raise VideoError(f"{path.name} is damaged or no video: not one frame can be decoded")
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = fps if 0 < fps <= 1000 else 30.0
        num_frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        longest = int(limits.seconds * fps) if limits.seconds else None
        if num_frames <= 0:  # browsers' recordings do not say: count
            num_frames = _count(capture, longest)
        if longest and num_frames > longest:
            raise VideoError(
                f"{path.name} is longer than {limits.seconds:g} seconds: cut it to the part that matters"
            )
    finally:
        capture.release()
    return VideoFile(path, num_frames, fps, width, height)


def preload(video: VideoFile, counts: Iterable[int], rule: str, short_side: int | None = None) -> LoadedClip:
    """Decode every frame that test clips of ``counts`` frames under ``rule`` take, in one pass."""
    start = time.perf_counter()
    indices = np.unique([i for count in counts for i in RULES[rule].test(video.num_frames, count)])
    frames = video.read(indices.tolist(), short_side)
    decode_ms = (time.perf_counter() - start) * 1e3
    return LoadedClip(video.num_frames, video.fps, indices, frames, decode_ms)


def _capture(path: Path) -> cv2.VideoCapture:
    # An explicit backend and a path that exists: never a URL, a camera or an image sequence's pattern.
    capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise VideoError(f"{path.name} is damaged or no video: it cannot be opened")
    return capture


def _count(capture: cv2.VideoCapture, longest: int | None) -> int:
    """Frames from the one just grabbed to the end, given up soon after ``longest``."""
    count = 1
    while (longest is None or count <= longest) and capture.grab():
        count += 1
    return count


def _to_rgb(frame: np.ndarray, short_side: int | None) -> np.ndarray:
    if short_side and min(frame.shape[:2]) > short_side:
        scale = short_side / min(frame.shape[:2])
        size = [max(short_side, round(side * scale)) for side in frame.shape[1::-1]]
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
