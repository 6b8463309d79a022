"""How training clips are cropped and varied: the recipes of the networks' papers, as data.

A crop is a *box* ``(top, left, height, width)`` of the decoded frames, which is then resized to the
network's size: nothing outside the box is ever resized. All frames of a sample, at every frame count,
get the same box, flip, colours and erased rectangle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from ffn import Preprocess

Box = tuple[int, int, int, int]
Draw = Callable[[np.random.Generator, int, int, int], Box]  # (rng, height, width, size) -> box

SCALES = (1, 0.875, 0.75, 0.66)
CORNERS = [
    (0, 0),
    (0, 4),
    (4, 0),
    (4, 4),
    (2, 2),
    (0, 2),
    (2, 0),
    (4, 2),
    (2, 4),
    (1, 1),
    (1, 3),
    (3, 1),
    (3, 3),
]


@dataclass(frozen=True)
class Augment:
    """One recipe of the training side."""

    box: Draw | None = None
    """draws the crop; None: resized and centre-cropped as in a test"""
    randaugment: bool = False
    """RandAugment, magnitude 7 of 10 with a deviation of 0.5, 4 operations each with probability 1/2"""
    erase: float = 0.0
    """probability that a rectangle is filled with noise"""

    def __call__(
        self, frames: np.ndarray, preprocess: Preprocess, rng: np.random.Generator, flip: bool
    ) -> Tensor:
        """uint8 RGB ``(T, H, W, 3)`` -> uint8 ``(T, size, size, 3)``, by draws from ``rng`` alone.

        ``flip`` allows a mirrored clip, with probability 1/2.
        """
        if self.box is None:
            clip = preprocess.spatial(frames)
            return clip.flip(2) if flip and rng.random() < 0.5 else clip
        size = preprocess.size
        top, left, height, width = self.box(rng, *frames.shape[1:3], size)
        mirrored = flip and rng.random() < 0.5
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's generator
            torch.manual_seed(int(rng.integers(1 << 62)))
            clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
            if self.randaugment:
                clip = _randaugment(clip)
            clip = clip[:, :, top : top + height, left : left + width]
            clip = tv.resize(clip, [size, size], antialias=True)
            if mirrored:
                clip = clip.flip(-1)
            if torch.rand(()) < self.erase:
                clip = _erase(clip, preprocess)
        return clip.permute(0, 2, 3, 1).contiguous()


def multiscale(rng: np.random.Generator, height: int, width: int, size: int) -> Box:
    """TSM's: a share of the short side, sides at most one scale apart, at one of 13 fixed offsets."""
    sides = [int(min(height, width) * scale) for scale in SCALES]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    h, w = pairs[rng.integers(len(pairs))]
    h, w = min(h, height), min(w, width)
    down, right = CORNERS[rng.integers(len(CORNERS))]
    return down * ((height - h) // 4), right * ((width - w) // 4), h, w


def short_side(rng: np.random.Generator, height: int, width: int, size: int) -> Box:
    """SlowFast's: the short side resized to 8/7 - 10/7 of the crop (256 - 320 for 224), cropped anywhere."""
    side = max(1, round(min(height, width) / rng.uniform(8 / 7, 10 / 7)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    return int(top), int(left), side, side


def area(rng: np.random.Generator, height: int, width: int, size: int) -> Box:
    """UniFormer's: 8 - 100 % of the frame, sides between 3:4 and 4:3, anywhere."""
    for _ in range(10):
        target = height * width * rng.uniform(0.08, 1)
        aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        h, w = round(np.sqrt(target / aspect)), round(np.sqrt(target * aspect))
        if 0 < h <= height and 0 < w <= width:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


AUGMENTATIONS = {
    "none": Augment(),
    "multiscale": Augment(multiscale),  # TSM, TEA
    "short_side": Augment(short_side),  # SlowFast
    "randaugment": Augment(area, randaugment=True, erase=0.25),  # UniFormer
}


def _randaugment(clip: Tensor) -> Tensor:
    """The same operations on every frame of a uint8 clip ``(T, 3, H, W)``."""
    for _ in range(4):
        if torch.rand(()) < 0.5:
            magnitude = (7 + 0.5 * torch.randn(()).item()) / 10 * 30
            operation = v2.RandAugment(1, min(30, max(0, round(magnitude))), 31, tv.InterpolationMode.BILINEAR)
            clip = operation(clip)
    return clip


def _erase(clip: Tensor, preprocess: Preprocess) -> Tensor:
    """Fill one rectangle of every frame with noise that is standard normal once normalised."""
    area = v2.RandomErasing(p=1).make_params([clip])
    if area["v"] is None:
        return clip
    rows, columns = slice(area["i"], area["i"] + area["h"]), slice(area["j"], area["j"] + area["w"])
    mean, std = (255 * torch.tensor(v)[:, None, None] for v in (preprocess.mean, preprocess.std))
    clip = clip.clone()
    noise = torch.randn_like(clip[:, :, rows, columns], dtype=torch.float32)
    clip[:, :, rows, columns] = (noise * std + mean).clamp(0, 255).byte()
    return clip
