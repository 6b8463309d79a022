"""What moves how: the classes of the Motion data set, each as one function of time.

Time runs over 0..1 from a clip's first frame to its last. Positions are in frame units (short side = 1, y
downwards), angles in radians, clockwise on the screen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

TILT = np.radians(20)  # a move may be this far off its nominal heading
EASINGS = (
    lambda p: p,
    lambda p: p * p * (3 - 2 * p),
    lambda p: p**1.7,
    lambda p: 1 - (1 - p) ** 1.7,
)


class Track(NamedTuple):
    """A pose over time; each entry broadcasts to the shape of the times.

    `alpha` is how much of the thing shows: a share of its opacity or, with `wipe`, of its area.
    """

    x: np.ndarray | float = 0.0
    y: np.ndarray | float = 0.0
    angle: np.ndarray | float = 0.0
    scale: np.ndarray | float = 1.0
    alpha: np.ndarray | float = 1.0
    wipe: bool = False


@dataclass(frozen=True)
class Stage:
    """What a motion may depend on."""

    rng: np.random.Generator
    times: np.ndarray  # (frames, sub-exposures)
    span: tuple[float, float]  # width and height of the frame in units
    size: float  # length of the object in units
    clutter: float = 0.5  # 0: a calm scene and a steady hand; 1: as crowded, noisy and shaky as it gets

    def progress(self, shortest: float = 0.5, eased: bool = True) -> np.ndarray:
        """0 before the motion, 1 after it; it takes `shortest`..1 of the clip, anywhere in it."""
        duration = self.rng.uniform(shortest, 1.0)
        start = self.rng.uniform(0, 1 - duration)
        ease = EASINGS[self.rng.integers(len(EASINGS))] if eased else EASINGS[0]
        return ease(np.clip((self.times - start) / duration, 0, 1))

    def spot(self, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
        """A start (x, y) from which a move by (dx, dy) mostly keeps the object within the frame."""
        margin = 0.0 if self.rng.random() < 0.06 else min(0.12 + 0.2 * self.size, 0.2)
        low = margin - np.minimum(0, (dx, dy))
        high = np.array(self.span) - margin - np.maximum(0, (dx, dy))
        middle = (low + high) / 2
        return self.rng.uniform(np.minimum(low, middle), np.maximum(high, middle))

    def rest(self) -> Track:
        return Track(*self.spot())


@dataclass(frozen=True)
class Play:
    """The tracks of the one or two things that act, and the camera's: x, y its shift, scale its zoom."""

    actors: list[Track]
    camera: Track = field(default=Track())


Motion = Callable[[Stage], Play]


def move(stage: Stage, heading: float) -> Play:
    rng = stage.rng
    heading += rng.uniform(-TILT, TILT)
    reach = np.abs(np.cos(heading)) * stage.span[0] + np.abs(np.sin(heading)) * stage.span[1]
    dx, dy = rng.uniform(0.25, 0.7) * min(reach, max(stage.span)) * np.array([np.cos(heading), np.sin(heading)])
    x, y = stage.spot(dx, dy)
    p = stage.progress()
    return Play(
        [Track(x + dx * p, y + dy * p, angle=rng.normal(0, 0.12) * p, scale=np.exp(rng.normal(0, 0.05) * p))]
    )


def approach(stage: Stage, sign: int) -> Play:
    rng, p = stage.rng, stage.progress()
    x, y = stage.spot()
    dx, dy = rng.normal(0, 0.04, 2)
    scale = 0.85 * rng.uniform(1.7, 2.9) ** (sign * (p - 0.5))
    return Play([Track(x + dx * p, y + dy * p, angle=rng.normal(0, 0.1) * p, scale=scale)])


def turn(stage: Stage, sign: int) -> Play:
    rng, p = stage.rng, stage.progress()
    x, y = stage.spot()
    dx, dy = rng.normal(0, 0.02, 2)
    return Play([Track(x + dx * p, y + dy * p, angle=sign * np.radians(rng.uniform(70, 200)) * p)])


def circle(stage: Stage, sign: int) -> Play:
    rng, p = stage.rng, stage.progress(0.7)
    radii = np.minimum(rng.uniform(0.15, 0.32) * rng.uniform(0.85, 1.2, 2), 0.36)
    phase = rng.uniform(0, 2 * np.pi) + sign * 2 * np.pi * rng.uniform(0.75, 1.3) * p
    x, y = stage.spot(*(2 * radii)) + radii
    return Play(
        [Track(x + radii[0] * np.cos(phase), y + radii[1] * np.sin(phase), angle=rng.normal(0, 0.15) * p)]
    )


def there_and_back(stage: Stage) -> Play:
    rng, p = stage.rng, stage.progress(0.6)
    heading = rng.uniform(0, 2 * np.pi)
    dx, dy = rng.uniform(0.25, 0.6) * np.array([np.cos(heading), np.sin(heading)])
    x, y = stage.spot(dx, dy)
    out = rng.choice([1 - np.abs(2 * p - 1), np.sin(np.pi * p), np.sin(np.pi * p) ** 2])
    return Play([Track(x + dx * out, y + dy * out, angle=rng.normal(0, 0.12) * out)])


def shake(stage: Stage) -> Play:
    rng, p = stage.rng, stage.progress(0.65, eased=False)
    heading, periods = rng.uniform(0, 2 * np.pi), rng.uniform(2.5, 6)
    # Uneven periods: hands are no metronomes, and no sampling of the frames can fall in step with them.
    swing = np.sin(
        2 * np.pi * periods * (p + 0.04 * np.sin(2 * np.pi * p * rng.uniform(1, 2) + rng.uniform(0, 7)))
    )
    swing = swing * np.minimum(1, 8 * np.minimum(p, 1 - p))
    dx, dy = rng.uniform(0.06, 0.14) * np.array([np.cos(heading), np.sin(heading)])
    x, y = stage.spot()
    return Play([Track(x + dx * swing, y + dy * swing, angle=np.radians(rng.normal(0, 14)) * swing)])


def stay(stage: Stage) -> Play:
    return Play([stage.rest()])


def appear(stage: Stage, sign: int) -> Play:
    rng = stage.rng
    kind = rng.choice(["cut", "fade", "wipe"], p=[0.4, 0.35, 0.25])
    length = 1e-3 if kind == "cut" else rng.uniform(0.06, 0.35)
    shown = np.clip(0.5 + sign * (stage.times - rng.uniform(0.2, 0.8)) / length, 0, 1)
    return Play([stage.rest()._replace(alpha=shown, wipe=kind == "wipe")])


def pair(stage: Stage, sign: int) -> Play:
    rng, p = stage.rng, stage.progress()
    axis = rng.uniform(0, 2 * np.pi)
    unit = np.array([np.cos(axis), np.sin(axis)])
    near = stage.size * rng.uniform(0.7, 1.0)
    far = near + rng.uniform(0.3, 0.6)
    gap = far + (near - far) * (p if sign > 0 else 1 - p)
    share = rng.uniform(0.35, 0.65)  # neither of the two stands still
    x, y = stage.spot(*(far * unit)) + share * far * unit
    ends = ((-share, rng.normal(0, 0.1)), (1 - share, rng.normal(0, 0.1)))
    return Play([Track(x + e * gap * unit[0], y + e * gap * unit[1], angle=drift * p) for e, drift in ends])


def pan(stage: Stage, sign: int) -> Play:
    """sign -1: the camera looks further and further left, so what it sees drifts to the right."""
    rng, p = stage.rng, stage.progress()
    heading = rng.uniform(-TILT, TILT)
    step = sign * rng.uniform(0.25, 0.7) * stage.span[0] * (p - 0.5)
    return Play([stage.rest()], Track(step * np.cos(heading), step * np.sin(heading)))


def zoom(stage: Stage, sign: int) -> Play:
    rng, p = stage.rng, stage.progress()
    dx, dy = rng.normal(0, 0.02, 2)
    return Play([stage.rest()], Track(dx * p, dy * p, scale=rng.uniform(1.5, 2.4) ** (sign * (p - 0.5))))


MOTIONS: dict[str, Motion] = {
    "moving something left to right": partial(move, heading=0.0),
    "moving something right to left": partial(move, heading=np.pi),
    "moving something up": partial(move, heading=-np.pi / 2),
    "moving something down": partial(move, heading=np.pi / 2),
    "moving something closer": partial(approach, sign=1),
    "moving something away": partial(approach, sign=-1),
    "turning something clockwise": partial(turn, sign=1),
    "turning something anticlockwise": partial(turn, sign=-1),
    "moving something round in a circle clockwise": partial(circle, sign=1),
    "moving something round in a circle anticlockwise": partial(circle, sign=-1),
    "moving something there and back": there_and_back,
    "shaking something": shake,
    "something staying still": stay,
    "something appearing": partial(appear, sign=1),
    "something vanishing": partial(appear, sign=-1),
    "two things coming together": partial(pair, sign=1),
    "two things moving apart": partial(pair, sign=-1),
    "camera panning left": partial(pan, sign=-1),
    "camera panning right": partial(pan, sign=1),
    "camera zooming in": partial(zoom, sign=1),
    "camera zooming out": partial(zoom, sign=-1),
}
CLASSES: tuple[str, ...] = tuple(MOTIONS)


def hand_shake(stage: Stage, camera: Track) -> Track:
    """The camera's track as a hand would hold it: a little sway, tremor, roll and breathing on top."""
    rng = stage.rng
    frequency = np.array([0.4, 1.1, 2.5, 6.0]) * rng.uniform(0.7, 1.4, 4)  # periods per clip
    waves = np.sin(2 * np.pi * (stage.times[..., None] * frequency + rng.random((4, 1, 1, 4)))) / np.sqrt(
        frequency
    )
    strength = 0.016 * stage.clutter * rng.random()
    x, y, roll, breath = strength * (waves @ rng.normal(0, 0.6, 4))
    return camera._replace(x=camera.x + x, y=camera.y + y, angle=roll, scale=camera.scale * np.exp(breath))
