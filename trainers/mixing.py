"""MixUp and CutMix: a batch's clips and labels, blended."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def mix(
    clips: dict[int, Tensor],
    labels: Tensor,
    num_classes: int,
    mixup: float,
    cutmix: float,
    rng: np.random.Generator,
) -> tuple[dict[int, Tensor], Tensor]:
    """Blend each sample with the batch's mirror image of it, alike at every frame count.

    ``clips`` maps T to (B, 3, T, H, W), ``labels`` is (B,). With both alphas above 0, each batch draws one of
    the two. Returns the clips and the labels as probabilities (B, num_classes). Zhang et al. 2018, arXiv
    1710.09412; Yun et al. 2019, arXiv 1905.04899; paired and drawn as in timm, which the paper trains with.
    """
    cut = bool(cutmix) and (not mixup or rng.random() < 0.5)
    share = rng.beta(*[cutmix if cut else mixup] * 2)
    if cut:
        height, width = next(iter(clips.values())).shape[-2:]
        top, bottom, left, right = _box(height, width, share, rng)
        share = 1 - (bottom - top) * (right - left) / (height * width)
        clips = {count: clip.clone() for count, clip in clips.items()}
        for clip in clips.values():
            clip[..., top:bottom, left:right] = clip.flip(0)[..., top:bottom, left:right]
    else:
        clips = {count: torch.lerp(clip.flip(0), clip, share) for count, clip in clips.items()}
    targets = F.one_hot(labels, num_classes).float()
    return clips, torch.lerp(targets.flip(0), targets, share)


def _box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A box about a random centre whose sides are ``sqrt(1 - share)`` of the image's, cut at its edges."""
    side = np.sqrt(1 - share) / 2
    y, x = rng.integers(height), rng.integers(width)
    dy, dx = int(height * side), int(width * side)
    return max(y - dy, 0), min(y + dy, height), max(x - dx, 0), min(x + dx, width)
