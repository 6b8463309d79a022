"""Open and decode video files with OpenCV: frames by number, in one pass.

A *clip source* is anything with ``num_frames``, ``fps`` and ``read(indices)`` -> uint8 RGB
``(len(indices), H, W, 3)``: a video file here, a frame folder or a rendered clip elsewhere.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from ffn.sampling import RULES

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts")
VIDEO_SUFFIXES += (".flv", ".wmv", ".ogg", ".ogv", ".3gp")
TICK = 1e-3  # seconds that the times in a file are rounded to

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet: a VideoError says what is wrong


class VideoError(ValueError):
    """A video that cannot be used; the message names the file and says why, in one sentence."""


class EndsEarly(VideoError):
    """Fewer frames can be decoded, ``num_frames``, than the file claims."""

    def __init__(self, message: str, num_frames: int):
        super().__init__(message)
        self.num_frames = num_frames


def find_videos(folder: Path) -> list[Path]:
    """The video files anywhere below ``folder``, in order; hidden ones left out."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("."))


@dataclass(frozen=True)
class Limits:
    """What is accepted of a video that a stranger uploads; None: anything goes.

    ``pixels`` are a frame's, ``aspect`` its long side over its short one.
    """

    megabytes: float | None = None
    seconds: float | None = None
    pixels: int | None = None
    aspect: float | None = None


@dataclass(frozen=True)
class VideoFile:
    """A video file that opened; frames are decoded when read.

    ``times`` are the seconds at which frames are shown; without them, frames follow each other evenly.
    """

    path: Path
    num_frames: int
    fps: float
    width: int
    height: int
    times: tuple[float, ...] = ()

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps

    def seconds_at(self, index: int) -> float:
        """When frame ``index`` is shown, counted from the first."""
        return self.times[index] if index < len(self.times) else index / self.fps

    def read(self, indices: Iterable[int], short_side: int | None = None) -> np.ndarray:
        """Decode the frames ``indices`` (any order, repeats allowed) in one pass.

        Frames whose short side exceeds ``short_side`` pixels are scaled down to it while decoding.

        Raises:
            EndsEarly: if the video ends long before the last of them.
            VideoError: if a frame cannot be decoded.
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
                        return self._short_read(found, wanted, position)
                    position += 1
                ok, frame = capture.retrieve()
                if not ok:
                    raise VideoError(f"{self.path.name} is damaged: frame {index} cannot be decoded")
                found[index] = _to_rgb(frame, short_side)
        finally:
            capture.release()
        return np.stack([found[i] for i in wanted])

    def frames(self, short_side: int | None = None) -> Iterator[np.ndarray]:
        """Every frame in order, scaled as in :meth:`read`, one in memory at a time.

        Raises:
            EndsEarly: after the last one, if the video ends long before it should.
            VideoError: if a frame cannot be decoded.
        """
        count, capture = 0, _capture(self.path)
        try:
            while count < self.num_frames and capture.grab():
                ok, frame = capture.retrieve()
                if not ok:
                    raise VideoError(f"{self.path.name} is damaged: frame {count} cannot be decoded")
                yield _to_rgb(frame, short_side)
                count += 1
        finally:
            capture.release()
        self._check_end(count)

    def _short_read(self, found: dict[int, np.ndarray], wanted: list[int], end: int) -> np.ndarray:
        # Many healthy files hold a few frames fewer than they claim: the last one stands in.
        if not found:
            raise self._ends_early(end)
        self._check_end(end)
        last = found[max(found)]
        return np.stack([found.get(i, last) for i in wanted])

    def _check_end(self, end: int) -> None:
        if not end or end < 0.9 * self.num_frames - 2:
            raise self._ends_early(end)

    def _ends_early(self, end: int) -> EndsEarly:
        return EndsEarly(
            f"{self.path.name} is damaged: only {end} of its {self.num_frames} frames can be decoded", end
        )


@dataclass(frozen=True)
class LoadedClip:
    """The frames of a video, or of a segment of it, that clips of some frame counts need, decoded and kept.

    Frames are counted from the segment's first, which is frame ``first`` of the video.
    """

    num_frames: int
    fps: float
    indices: np.ndarray
    frames: np.ndarray
    decode_ms: float
    first: int
    times: tuple[float, ...]

    def seconds_at(self, index: int) -> float:
        """When frame ``index`` is shown, counted from the start of the video."""
        return self.times[index]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """uint8 ``(len(indices), H, W, 3)``; KeyError for a frame that was not kept."""
        places = np.searchsorted(self.indices, indices)
        if np.any(self.indices[np.minimum(places, len(self.indices) - 1)] != indices):
            raise KeyError(f"frames {list(indices)} were not all kept when this clip was loaded")
        return self.frames[places]


def open_video(path: str | Path, limits: Limits | None = None) -> VideoFile:
    """Open a video file and check that it decodes.

    ``fps`` is the mean rate; frames are counted, for headers only estimate or do not say.

    Raises:
        VideoError: if it is missing, empty, no video, cut off, damaged, or over one of ``limits``.
    """
    path, limits = Path(path), limits or Limits()
    container = _check_file(path, limits)
    capture = _capture(path)
    try:
        width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        _check_size(path, width, height, limits)
        declared_fps, declared = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if not capture.grab():
            raise VideoError(f"{path.name} is damaged or no video: not one frame can be decoded")
        times = _packet_times(path)
        num_frames, last = len(times), max(times, default=0)
        fps = (num_frames - 1) / last if last > 0 else declared_fps
        fps = fps if 0 < fps <= 1000 else 30.0
        if limits.seconds and num_frames / fps > limits.seconds:
            raise VideoError(
                f"{path.name} is longer than {limits.seconds:g} seconds: cut it to the part that matters"
            )
        if container == "mp4" and num_frames != declared:
            # Trimmed on a phone: packets that are not shown stay in the file, and only decoding tells.
            num_frames = 1 + sum(1 for _ in iter(capture.grab, False))
    finally:
        capture.release()
    known = last > 0 and len(times) == num_frames
    return VideoFile(path, num_frames, fps, width, height, times if known else ())


def preload(
    video: VideoFile,
    counts: Iterable[int],
    rule: str,
    short_side: int | None = None,
    start: float = 0,
    end: float | None = None,
) -> LoadedClip:
    """Decode every frame that test clips of ``counts`` frames under ``rule`` take, in one pass.

    The clips are of the segment from ``start`` to ``end`` seconds, at least one frame; None: to the end.
    A video that turns out shorter than it claims is taken for what can be decoded of it.

    Raises:
        VideoError: if it cannot be decoded, or the segment is empty or begins after the video's end.
    """
    began, counts = time.perf_counter(), list(counts)
    first, stop = _segment(video, start, end)
    indices = np.unique([i for count in counts for i in RULES[rule].test(stop - first, count)])
    try:
        frames = video.read((first + indices).tolist(), short_side)
    except EndsEarly as error:
        if not error.num_frames:
            raise
        return preload(replace(video, num_frames=error.num_frames), counts, rule, short_side, start, end)
    decode_ms = (time.perf_counter() - began) * 1e3
    times = tuple(video.seconds_at(i) for i in range(first, stop))
    return LoadedClip(stop - first, video.fps, indices, frames, decode_ms, first, times)


def _segment(video: VideoFile, start: float, end: float | None) -> tuple[int, int]:
    """The first frame of a segment and the one after its last."""
    if end is not None and not start < end:
        raise VideoError(
            f"the segment from {start:g} to {end:g} seconds is empty: it must start before it ends"
        )
    if start >= video.seconds:
        raise VideoError(f"{video.path.name} ends after {video.seconds:.1f} seconds: start before that")
    times = [video.seconds_at(i) for i in range(video.num_frames)]
    first = max(0, bisect_right(times, start + TICK) - 1)
    stop = video.num_frames if end is None else bisect_left(times, end - TICK)
    return first, max(stop, first + 1)


def _check_file(path: Path, limits: Limits) -> str:
    """The container of the file, found good as far as can be told without decoding."""
    if not path.is_file():
        raise VideoError(f"there is no file {path}")
    size = path.stat().st_size
    if size == 0:
        raise VideoError(f"{path.name} is empty")
    if limits.megabytes and size > limits.megabytes * 2**20:
        raise VideoError(
            f"{path.name} has {size / 2**20:.0f} MB; at most {limits.megabytes:g} MB are taken: "
            "shorten it or record it at a lower resolution"
        )
    container = _container(path)
    if container is None:
        raise VideoError(f"{path.name} is no video file (MP4, MOV, WebM, MKV, AVI, MPEG, FLV, WMV or Ogg)")
    if _claimed_size(path, container) > size:
        raise VideoError(f"{path.name} is cut off, its end is missing: copy or record it again")
    return container


def _check_size(path: Path, width: int, height: int, limits: Limits) -> None:
    if limits.pixels and width * height > limits.pixels:
        raise VideoError(
            f"{path.name} has frames of {width}x{height}; at most {limits.pixels:,} pixels are taken: "
            "record it at a lower resolution"
        )
    if limits.aspect and max(width, height) > limits.aspect * min(width, height):
        raise VideoError(
            f"{path.name} has frames of {width}x{height}; one side may be at most {limits.aspect:g} times "
            "the other: crop it"
        )


def _container(path: Path) -> str | None:
    """The kind of container, by its first bytes whatever the file is called; None: no video.

    Asked before FFmpeg sees the file, which would take pictures too, and playlists that name other files.
    """
    with path.open("rb") as file:
        head = file.read(400)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return "mp4"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith((b"FLV", b"OggS", b"\x30\x26\xb2\x75", b"\x00\x00\x01\xba")):
        return "other"
    for start, packet in ((0, 188), (4, 192)):  # MPEG transport stream, as broadcast and as on cameras
        if head[start : start + packet + 1 : packet] == b"GG":
            return "other"
    return None


def _claimed_size(path: Path, container: str) -> int:
    """How many bytes long the file says it is; 0 where it does not."""
    with path.open("rb") as file:
        if container == "avi":
            return int.from_bytes(file.read(8)[4:], "little") + 8
        if container == "matroska":
            file.seek(4)
            file.seek(_matroska_size(file), os.SEEK_CUR)
            is_segment = file.read(4) == b"\x18\x53\x80\x67"
            length = _matroska_size(file)
            return file.tell() + length if is_segment else 0
        if container == "mp4":
            return max((end for kind, end in _boxes(file) if kind in (b"moov", b"moof", b"mdat")), default=0)
    return 0


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The kind of each top-level box of an MP4 file, and where it ends."""
    position = 0
    while len(head := file.read(16)) >= 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # to the end of the file
            return
        position += length
        yield kind, position
        file.seek(position)


def _matroska_size(file: BinaryIO) -> int:
    """The size field at the file's position; 0 for unknown, as in a recording that was streamed."""
    first = file.read(1) or b"\xff"
    more = 8 - first[0].bit_length()
    bits = 7 * (more + 1)
    size = int.from_bytes(first + file.read(more), "big") & ((1 << bits) - 1)
    return 0 if size == (1 << bits) - 1 else size


def _capture(path: Path) -> cv2.VideoCapture:
    # An explicit backend and a path that exists: never a URL, a camera or an image sequence's pattern.
    capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise VideoError(f"{path.name} is damaged or holds no video: it cannot be opened")
    return capture


def _packet_times(path: Path) -> tuple[float, ...]:
    """When each frame that the file holds is shown, in seconds and in order, read without decoding them."""
    capture = _capture(path)
    capture.set(cv2.CAP_PROP_FORMAT, -1)
    times = []
    try:
        while capture.grab():
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3)
    finally:
        capture.release()
    return tuple(sorted(times))


def _to_rgb(frame: np.ndarray, short_side: int | None) -> np.ndarray:
    if short_side and min(frame.shape[:2]) > short_side:
        scale = short_side / min(frame.shape[:2])
        size = [max(short_side, round(side * scale)) for side in frame.shape[1::-1]]
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
