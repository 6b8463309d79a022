"""Motion's classes made from real pictures: does what was learned from rendered clips carry over?

    python -m trainers.evaluate CHECKPOINT --data footage --data-root DIR

DIR holds photographs and videos, in any folders. The camera pans and zooms over them, cut-outs of them move
before them, and a video goes on playing meanwhile. There is nothing here to train on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ffn.video import VIDEO_SUFFIXES, find_videos, open_video
from trainers.data.files import DataError
from trainers.data.motion import MotionClip
from trainers.data.motion_drawing import Patch, make_object
from trainers.data.motion_paths import CLASSES
from trainers.data.motion_scene import Drawn

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FIRST_SEED = 2 << 40  # in neither of Motion's splits
SHORT_SIDE = 240  # pixels that pictures are kept at
FRAMES, SECONDS = 32, 4


class Footage:
    """A source of ``clips`` clips: the classes in turn, over one picture after the other.

    DataError if there are no pictures, ValueError for the train split.
    """

    classes = CLASSES
    skipped = ()

    def __init__(self, root: Path, clips: int | None = None, size: int = 64):
        photos = (path for path in root.rglob("[!.]*") if path.suffix.lower() in PHOTO_SUFFIXES)
        self.paths = sorted([*photos, *find_videos(root)])
        if not self.paths:
            raise DataError(
                f"{root} holds no photographs ({', '.join(PHOTO_SUFFIXES)}) and no videos: add some"
            )
        self.clips, self.size = 630 if clips is None else clips, size

    def __len__(self) -> int:
        return self.clips

    def label(self, i: int) -> int:
        return i % len(CLASSES)

    def name(self, i: int) -> str:
        return f"{CLASSES[self.label(i)]} over {self._picture(i // len(CLASSES))}"

    def _picture(self, number: int) -> Path:
        return self.paths[number % len(self.paths)]

    def open(self, i: int) -> MotionClip:
        behind = self._picture(i // len(CLASSES))
        material = Pictures(behind, self._picture(7 * i + 3))
        return MotionClip(self.label(i), FIRST_SEED + i, FRAMES, self.size, self.size, material=material)


@dataclass(frozen=True)
class Pictures(Drawn):
    """A scene before the picture or video ``behind``, of things cut out of the picture ``cut``."""

    behind: Path
    cut: Path

    def worlds(self, rng, width, height, density, clutter, frames) -> list[Patch]:
        pictures = _read(self.behind)
        shape = int(np.ceil(height * density)), int(np.ceil(width * density))
        top, left, share = rng.random(), rng.random(), rng.uniform(0.8, 1.0)
        worlds = []
        for k in np.linspace(0, len(pictures) - 1, min(frames, len(pictures))).astype(int):
            rgb = _window(pictures[k], shape, (top, left), share)
            worlds.append(Patch(_opaque(rgb), 0j, density))
        return worlds

    def thing(self, rng, size, density) -> Patch:
        picture, place, share = _first(self.cut), rng.random(2), rng.uniform(0.25, 0.7)
        return make_object(rng, size, density, lambda side: _window(picture, (side, side), place, share))


def _window(picture: np.ndarray, shape: tuple[int, int], place, share: float) -> np.ndarray:
    """The part of ``picture`` of that ``share``, at that ``place`` (0..1), as float32 RGB of that shape."""
    limit = share * min(picture.shape[0] / shape[0], picture.shape[1] / shape[1])
    h, w = (max(1, int(side * limit)) for side in shape)
    top, left = int(place[0] * (picture.shape[0] - h)), int(place[1] * (picture.shape[1] - w))
    part = picture[top : top + h, left : left + w]
    return cv2.resize(part, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)


def _opaque(rgb: np.ndarray) -> np.ndarray:
    return cv2.merge([*cv2.split(rgb), np.ones(rgb.shape[:2], np.float32)])


@lru_cache(maxsize=512)
def _first(path: Path) -> np.ndarray:
    return _read(path)[0].copy()  # not a view, which would keep the whole video


@lru_cache(maxsize=4)
def _read(path: Path) -> np.ndarray:
    """uint8 RGB (frames, height, width, 3) of a video's first seconds, or of a photograph (one frame)."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        video = open_video(path)
        last = min(video.num_frames, round(SECONDS * video.fps)) - 1
        return video.read(np.linspace(0, last, FRAMES).astype(int), SHORT_SIDE)
    picture = cv2.imread(str(path))
    if picture is None:
        raise DataError(f"{path} cannot be read as a picture: remove it")
    scale = SHORT_SIDE / min(picture.shape[:2])
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)[None, ..., ::-1]
