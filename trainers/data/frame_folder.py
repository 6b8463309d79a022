"""A video as a folder of JPEG frames, numbered from 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ffn.video import VideoError

# Something-Something V1 and V2; Kinetics and HMDB51 as the released code reads them; TSM's own extraction.
TEMPLATES = ("{:05d}.jpg", "{:06d}.jpg", "image_{:05d}.jpg", "img_{:05d}.jpg")


@dataclass(frozen=True)
class FrameFolder:
    """Frames decode when read; see :mod:`ffn.video` for what a clip is."""

    path: Path
    num_frames: int
    template: str
    fps: float = 30.0

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """uint8 RGB ``(len(indices), H, W, 3)``; frame ``i`` is the file numbered ``i + 1``.

        Raises:
            VideoError: if a frame is missing or damaged, or frames differ in size.
        """
        wanted = list(indices)
        frames = {i: self._read(i) for i in sorted(set(wanted))}
        if len({frame.shape for frame in frames.values()}) > 1:
            raise VideoError(f"{self.path} holds frames of different sizes: extract it again")
        return np.stack([frames[i] for i in wanted])

    def __iter__(self) -> Iterator[np.ndarray]:
        """Every frame in order; raises VideoError as :meth:`read` does."""
        return map(self._read, range(self.num_frames))

    def _read(self, index: int) -> np.ndarray:
        path = self.path / self.template.format(index + 1)
        image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        if image is None:
            state = "is damaged" if path.exists() else f"is missing, one of {self.num_frames}"
            raise VideoError(f"{path} {state}: extract the frames again or correct the list")
        return image


def open_frames(path: Path, num_frames: int | None = None) -> FrameFolder:
    """The frames in folder ``path``; ``num_frames`` of them if given, else as many as there are.

    Raises:
        VideoError: if the folder holds no frames named in a known way.
    """
    for template in TEMPLATES:
        if (path / template.format(1)).exists():
            if num_frames is None:
                before, after = template.split("{:0")[0], ".jpg"
                num_frames = sum(1 for _ in path.glob(f"{before}[0-9]*{after}"))
            return FrameFolder(path, num_frames, template)
    if not path.is_dir():
        raise VideoError(f"there is no folder or video {path}")
    names = ", ".join(template.format(1) for template in TEMPLATES)
    raise VideoError(f"{path} holds no first frame: it should be called one of {names}")
