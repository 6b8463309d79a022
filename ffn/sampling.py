"""Which frames of a video make a clip of T frames: the rules of the released code, counted from 0.

A rule is a pair of functions. ``train(num_frames, count, rng)`` draws at random, ``test(num_frames,
count, view, views)`` does not: it gives the clip number ``view`` of ``views`` different ones, the one in
the middle by default. Both return ``count`` indices in ``[0, num_frames)``, repeated where the video is
shorter than the clip. They ascend, but for ``dense``, which starts over at the end of a short video.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

DENSE_WINDOW = 64  # frames


class Test(Protocol):
    def __call__(self, num_frames: int, count: int, view: int = 0, views: int = 1) -> list[int]: ...


class Rule(NamedTuple):
    train: Callable[[int, int, np.random.Generator], list[int]]
    test: Test


def _segment_train(num_frames: int, count: int, rng: np.random.Generator) -> list[int]:
    """One random frame in each of ``count`` equal segments; a shorter video repeats its first frame.

    (The released code's other case, sorted random frames, is for inputs of several frames per segment.)
    """
    duration = num_frames // count
    if duration == 0:
        return [0] * count
    return [i * duration + int(rng.integers(duration)) for i in range(count)]


def _segment_test(num_frames: int, count: int, view: int = 0, views: int = 1) -> list[int]:
    """The middle frame of each of ``count`` equal segments; several views divide each segment evenly."""
    tick = num_frames / count
    return [int(tick * (view + 1) / (views + 1) + tick * i) for i in range(count)]


def _span(num_frames: int, count: int, i: int) -> tuple[int, int]:
    """First and last frame, both inclusive, of segment i."""
    size = (num_frames - 1) / count
    return round(size * i), round(size * (i + 1))


def _span_train(num_frames: int, count: int, rng: np.random.Generator) -> list[int]:
    return [int(rng.integers(*_span(num_frames, count, i), endpoint=True)) for i in range(count)]


def _span_test(num_frames: int, count: int, view: int = 0, views: int = 1) -> list[int]:
    spans = (_span(num_frames, count, i) for i in range(count))
    return [first + int((last - first) / (views + 1) * (view + 1)) for first, last in spans]


def _dense(num_frames: int, count: int, start: int) -> list[int]:
    """Every ``64 // count``-th frame of the window from ``start`` on."""
    stride = max(1, DENSE_WINDOW // count)
    return [(start + i * stride) % num_frames for i in range(count)]


def _dense_train(num_frames: int, count: int, rng: np.random.Generator) -> list[int]:
    return _dense(num_frames, count, int(rng.integers(max(1, num_frames - DENSE_WINDOW))))


def _dense_test(num_frames: int, count: int, view: int = 0, views: int = 1) -> list[int]:
    """Windows from the first to the last one that fits; a single one lies in the middle."""
    latest = max(0, num_frames - DENSE_WINDOW)
    return _dense(num_frames, count, int(latest * view / (views - 1)) if views > 1 else latest // 2)


RULES = {
    "segment": Rule(_segment_train, _segment_test),  # TSM, TEA
    "span": Rule(_span_train, _span_test),  # SlowFast, UniFormer
    "dense": Rule(_dense_train, _dense_test),  # TSM on Kinetics, with 10 views in the test
}
