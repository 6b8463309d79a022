"""What training clips go through, by the names of the paper's recipes; a test clip is resized and cropped.

An augmentation takes uint8 frames ``(T, 3, H, W)``, all frames a sample needs, the side of the network's clips
in pixels and a generator; it returns ``(T, 3, side, side)``, every frame treated alike. Where torchvision draws
by itself, the caller seeds PyTorch.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

CROP_SCALES = (1, 0.875, 0.75, 0.66)
# Where TSM's code puts a crop, in quarters of the room that it has: (from the left, from the top).
CROP_OFFSETS = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0))
CROP_OFFSETS += ((1, 1), (3, 1), (1, 3), (3, 3))
SHORT_SIDES = (1, 1.25)  # of 256 pixels in SlowFast's recipe
SHORT_SIDE_CROP = 224 / 256


def multiscale(frames: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """TSM, TEA: a crop whose sides are one or two neighbouring scales of the short side, at a fixed offset."""
    height, width = frames.shape[-2:]
    pairs = [(a, b) for i, a in enumerate(CROP_SCALES) for j, b in enumerate(CROP_SCALES) if abs(i - j) <= 1]
    tall, wide = (int(min(height, width) * scale) for scale in pairs[rng.integers(len(pairs))])
    left, top = CROP_OFFSETS[rng.integers(len(CROP_OFFSETS))]
    top, left = (height - tall) // 4 * top, (width - wide) // 4 * left
    return tv.resized_crop(frames, top, left, tall, wide, [side, side], antialias=True)


def short_side(frames: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """SlowFast: scaled to a random short side, then a random crop, smaller than a test clip as published."""
    crop = round(side * SHORT_SIDE_CROP)
    low, high = (round(side * scale) for scale in SHORT_SIDES)
    frames = tv.resize(frames, [int(rng.integers(low, high + 1))], antialias=True)
    top, left = (int(rng.integers(length - crop + 1)) for length in frames.shape[-2:])
    return tv.crop(frames, top, left, crop, crop)


def randaugment(frames: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """UniFormer: RandAugment (4 operations, magnitude 7 +- .5 of 10), a random resized crop, random erasing."""
    magnitude = float(np.clip(rng.normal(7, 0.5), 0, 10))
    bicubic = v2.InterpolationMode.BICUBIC
    frames = v2.RandAugment(4, round(3 * magnitude), interpolation=bicubic)(frames)  # of 30 in torchvision
    top, left, tall, wide = _random_box(*frames.shape[-2:], rng)
    frames = tv.resized_crop(frames, top, left, tall, wide, [side, side], bicubic, antialias=True)
    if rng.random() < 0.25:
        top, left, tall, wide = _random_box(side, side, rng, (0.02, 1 / 3), (0.3, 10 / 3))
        noise = rng.integers(0, 256, (frames.shape[0], 3, tall, wide), np.uint8)
        frames[..., top : top + tall, left : left + wide] = frames.new_tensor(noise)
    return frames


def _random_box(height, width, rng, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)) -> tuple[int, int, int, int]:
    """Top, left, height, width: a share of the image's area of a random aspect ratio, where it fits."""
    for _ in range(10):
        share, ratio = rng.uniform(*area), math.exp(rng.uniform(*map(math.log, aspect)))
        tall = round(math.sqrt(share * height * width / ratio))
        wide = round(math.sqrt(share * height * width * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


AUGMENTATIONS = {"none": None, "multiscale": multiscale, "short_side": short_side, "randaugment": randaugment}
