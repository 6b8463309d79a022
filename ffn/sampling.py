"""Which frames of a video make a clip of T frames: the rules of the released code, counted from 0.

A rule is a pair of functions. ``train(num_frames, count, rng)`` draws at random, ``test(num_frames, count,
view=0, views=1)`` does not: with several views each is another clip. Both return ``count`` indices in
``[0, num_frames)``, repeated where the video is shorter than the clip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WINDOW = 64  # frames that a dense clip spans


class Rule(NamedTuple):
    train: Callable[[int, int, np.random.Generator], list[int]]
    test: Callable[..., list[int]]


def _segment_train(num_frames: int, count: int, rng: np.random.Generator) -> list[int]:
    """One random frame in each of ``count`` equal segments; a shorter video repeats its first frame."""
    duration = num_frames // count
    if duration == 0:
        return [0] * count
    return [i * duration + int(rng.integers(duration)) for i in range(count)]


def _segment_test(num_frames: int, count: int, view: int = 0, views: int = 1) -> list[int]:
    """The middle frame of each of ``count`` equal segments; ``views`` divide a segment evenly."""
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


def _dense_train(num_frames: int, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` frames at equal steps over WINDOW frames from a random one on, around the end if need be."""
    return _dense(num_frames, count, int(rng.integers(max(1, num_frames - WINDOW + 1))))


def _dense_test(num_frames: int, count: int, view: int = 0, views: int = 1) -> list[int]:
    """The window in the middle; ``views`` windows spread from the first to the last."""
    room = max(0, num_frames - WINDOW)
    return _dense(num_frames, count, room // 2 if views == 1 else int(room * view / (views - 1)))


def _dense(num_frames: int, count: int, start: int) -> list[int]:
    step = max(1, WINDOW // count)
    return [(start + step * i) % num_frames for i in range(count)]


RULES = {
    "segment": Rule(_segment_train, _segment_test),  # TSM, TEA
    "span": Rule(_span_train, _span_test),  # SlowFast, UniFormer
    "dense": Rule(_dense_train, _dense_test),  # TSM's other way, for Kinetics
}
