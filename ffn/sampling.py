"""Which frames of a video make a clip of T frames: the rules of the released code, counted from 0.

A rule is a pair of functions. ``train(num_frames, count, rng)`` draws at random, ``test(num_frames,
count)`` does not; both return ``count`` indices in ``[0, num_frames)``, ascending, repeated where the
video is shorter than the clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Rule(NamedTuple):
    train: Callable[[int, int, np.random.Generator], list[int]]
    test: Callable[[int, int], list[int]]


def _segment_train(num_frames: int, count: int, rng: np.random.Generator) -> list[int]:
    """One random frame in each of ``count`` equal segments; a shorter video repeats its first frame."""
    duration = num_frames // count
    if duration == 0:
        return [0] * count
    return [i * duration + int(rng.integers(duration)) for i in range(count)]


def _segment_test(num_frames: int, count: int) -> list[int]:
    """The middle frame of each of ``count`` equal segments."""
    tick = num_frames / count
    return [int(tick / 2 + tick * i) for i in range(count)]


def _span(num_frames: int, count: int, i: int) -> tuple[int, int]:
    """First and last frame, both inclusive, of segment i."""
    size = (num_frames - 1) / count
    return round(size * i), round(size * (i + 1))


def _span_train(num_frames: int, count: int, rng: np.random.Generator) -> list[int]:
    return [int(rng.integers(*_span(num_frames, count, i), endpoint=True)) for i in range(count)]


def _span_test(num_frames: int, count: int) -> list[int]:
    spans = (_span(num_frames, count, i) for i in range(count))
    return [first + (last - first) // 2 for first, last in spans]


RULES = {
    "segment": Rule(_segment_train, _segment_test),  # TSM, TEA
    "span": Rule(_span_train, _span_test),  # SlowFast, UniFormer
}
