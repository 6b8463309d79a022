"""Keep a source's decoded clips on disk, so that later epochs and runs need not make them again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class CachedClip:
    fps: float
    frames: np.ndarray

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    def read(self, indices) -> np.ndarray:
        return self.frames[indices]


class Cached:
    """``source``, whose clips all have one shape, behind a memory-mapped file ``name`` in ``folder``.

    Clips are filled in as they are first opened. Several processes may do so at once: what they write
    is the same. The file takes num_frames * height * width * 3 bytes per clip, and grows as it fills.
    """

    def __init__(self, source, folder: Path, name: str):
        self.source, self.classes, self.skipped = source, source.classes, ()
        self.gradual = getattr(source, "gradual", False)
        first = source.open(0)
        self.fps = first.fps
        folder.mkdir(parents=True, exist_ok=True)
        frames = first.read(range(first.num_frames))
        shape = (len(source), *frames.shape)
        self.frames = _open(folder / f"{name}-{'x'.join(map(str, shape))}.u8", shape)
        self.filled = _open(folder / f"{name}-{'x'.join(map(str, shape))}.filled", shape[:1])

    def __len__(self) -> int:
        return len(self.source)

    def label(self, i: int) -> int:
        return self.source.label(i)

    def name(self, i: int) -> str:
        return self.source.name(i)

    def open(self, i: int) -> CachedClip:
        if not self.filled[i]:
            clip = self.source.open(i)
            self.frames[i] = clip.read(range(clip.num_frames))
            self.filled[i] = 1  # only now: whoever is killed before leaves the clip to be made again
        return CachedClip(self.fps, self.frames[i])


def _open(path: Path, shape: tuple[int, ...]) -> np.memmap:
    with path.open("ab") as file:  # never truncated: another process may be filling it
        file.truncate(int(np.prod(shape)))
    return np.memmap(path, np.uint8, "r+", shape=shape)
