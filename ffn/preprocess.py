"""From decoded frames to what a network eats: resize, crop, channel order, normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ffn.sampling import RULES

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """How a network's clips are sampled and prepared at test time.

    ``resize`` is the short side in pixels before the centre crop of ``size``; ``sampling`` names a rule
    of :mod:`ffn.sampling`; ``bgr`` networks read their channels in OpenCV's order.

    Raises:
        ValueError: if the crop is empty or larger than what it is cut from, or there is no such rule.
    """

    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bgr: bool = False
    sampling: str = "segment"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ValueError(f"size must lie between 1 and resize ({self.resize}), not {self.size}")
        if self.sampling not in RULES:
            raise ValueError(f"there is no sampling {self.sampling!r}; choose one of {', '.join(RULES)}")

    def spatial(self, frames: np.ndarray) -> Tensor:
        """uint8 RGB frames ``(T, H, W, 3)`` -> uint8 ``(T, size, size, 3)``: resized and centre-cropped."""
        return tv.center_crop(self._resized(frames), [self.size, self.size]).permute(0, 2, 3, 1)

    def spatial_crops(self, frames: np.ndarray, crops: int) -> Tensor:
        """As :meth:`spatial`, cropped at ``crops`` places: uint8 ``(crops, T, size, size, 3)``.

        One is the centre; three are both ends and the middle of the long side.
        """
        if crops == 1:
            return self.spatial(frames)[None]
        x = self._resized(frames)
        height, width = x.shape[-2:]
        parts = []
        for i in range(crops):
            top, left = (
                (side - self.size) * (i if side == max(height, width) else (crops - 1) / 2) / (crops - 1)
                for side in (height, width)
            )
            parts.append(tv.crop(x, round(top), round(left), self.size, self.size))
        return torch.stack(parts).permute(0, 1, 3, 4, 2)

    def _resized(self, frames: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        return x if min(x.shape[-2:]) == self.resize else tv.resize(x, [self.resize], antialias=True)

    def normalise(self, clips: Tensor) -> Tensor:
        """uint8 RGB clips ``(B, T, H, W, 3)`` -> float32 ``(B, 3, T, H, W)``, on the clips' device."""
        mean, std = (torch.tensor(v, device=clips.device) * 255 for v in (self.mean, self.std))
        if self.bgr:
            clips = clips.flip(-1)
        return ((clips.float() - mean) / std).permute(0, 4, 1, 2, 3)

    def __call__(self, frames: np.ndarray) -> Tensor:
        """uint8 RGB frames ``(T, H, W, 3)`` of any size -> one float32 clip ``(1, 3, T, size, size)``."""
        return self.normalise(self.spatial(frames)[None])
