"""A clip kept as a folder of JPEG frames, numbered from 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ffn.video import VideoError


@dataclass(frozen=True)
class FrameFolder:
    """A folder of frames, decoded when read; ``template`` formats a frame's number, from 1, to its name."""

    path: Path
    num_frames: int
    template: str
    fps: float = 30.0

    def read(self, indices: Iterable[int]) -> np.ndarray:
        """uint8 RGB ``(len(indices), H, W, 3)`` of the frames ``indices``, counted from 0.

        Raises:
            VideoError: if a frame is missing, damaged or of another size than the rest.
        """
        wanted = list(indices)
        if wanted and not 0 <= min(wanted) <= max(wanted) < self.num_frames:
            raise IndexError(f"{self.path.name} has frames 0 to {self.num_frames - 1}, not {wanted}")
        found = {index: self._frame(index) for index in sorted(set(wanted))}
        shapes = {frame.shape for frame in found.values()}
        if len(shapes) > 1:
            raise VideoError(f"the frames of {self.path} differ in size: extract them again")
        return np.stack([found[i] for i in wanted])

    def frames(self, short_side: int | None = None) -> Iterator[np.ndarray]:
        """Every frame in order, as stored; raises VideoError as :meth:`read` does."""
        return map(self._frame, range(self.num_frames))

    def _frame(self, index: int) -> np.ndarray:
        path = self.path / self.template.format(index + 1)
        try:
            data = np.fromfile(path, np.uint8)
        except FileNotFoundError:
            raise VideoError(f"frame {path} is missing: extract the frames of this clip again") from None
        frame = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None
        if frame is None:
            raise VideoError(f"frame {path} is damaged: extract the frames of this clip again")
        return frame


def open_frames(path: Path, templates: Iterable[str], num_frames: int | None = None) -> FrameFolder:
    """The clip in the folder ``path``, named after whichever of ``templates`` its first frame fits.

    Without ``num_frames`` the frames are counted.

    Raises:
        VideoError: if the folder is empty or its first frame is missing.
    """
    for template in templates:
        if (path / template.format(1)).exists():
            if num_frames is None:
                num_frames = sum(1 for _ in path.glob(f"*{Path(template).suffix}"))
            return FrameFolder(path, num_frames, template)
    if not any(path.iterdir()):
        raise VideoError(f"the frame folder {path} is empty: extract the frames of this clip again")
    first = " or ".join(template.format(1) for template in templates)
    raise VideoError(
        f"the frame folder {path} has no first frame {first}: extract the frames of this clip again"
    )
