"""A camera's last seconds, predicted again and again: one window of frames per visitor."""

from __future__ import annotations

import time
from collections import deque

import cv2
import numpy as np

MAX_FRAMES = 200  # of a window, whatever the camera's rate


class Window:
    """The frames of the last ``seconds``; a clip source, see :mod:`ffn.video`.

    Cameras deliver at an uneven rate, so frames are counted by time: frame i is what the camera
    showed at i / fps.
    """

    fps = 15.0

    def __init__(self):
        self._frames: deque[tuple[float, np.ndarray]] = deque(maxlen=MAX_FRAMES)

    def add(self, image: np.ndarray, seconds: float, short_side: int) -> None:
        """Take a frame ``(H, W, 3)``, scaled down to ``short_side``; forget what is older than ``seconds``."""
        now = time.monotonic()
        scale = short_side / min(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if self._frames and self._frames[-1][1].shape != image.shape:  # the phone was turned
            self._frames.clear()
        self._frames.append((now, image))
        while now - self._frames[0][0] > seconds:
            self._frames.popleft()

    @property
    def seconds(self) -> float:
        return self._frames[-1][0] - self._frames[0][0] if self._frames else 0.0

    @property
    def num_frames(self) -> int:
        return 1 + int(self.seconds * self.fps)

    def seconds_at(self, index: int) -> float:
        """When frame ``index`` was shown, before now; 0 or less."""
        return index / self.fps - self.seconds

    def read(self, indices: list[int]) -> np.ndarray:
        times = np.array([when for when, _ in self._frames])
        wanted = times[0] + np.array(indices) / self.fps
        return np.stack([self._frames[np.abs(times - when).argmin()][1] for when in wanted])
