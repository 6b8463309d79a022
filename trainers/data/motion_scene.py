"""Composing the clips of the Motion data set: what is drawn once per clip, and the camera that takes each
frame."""

from dataclasses import dataclass, replace
from functools import cache, lru_cache

import cv2
import numpy as np

from trainers.data.motion_drawing import (
    Patch,
    affine,
    make_arm,
    make_background,
    make_group,
    make_object,
    paint,
    turned,
)
from trainers.data.motion_paths import CLASSES, MOTIONS, Play, Stage, Track, hand_shake


@dataclass(frozen=True)
class Mover:
    """A patch (with its halved copies, against aliasing) on its way; `reveal` (h, w) is the order of a wipe.

    `grow` (scale and turn), `where` and `alpha` are lists [frame][sub-exposure] of Python numbers, in units.
    """

    levels: tuple[Patch, ...]
    grow: list[list[complex]]
    where: list[list[complex]]
    alpha: list[list[float]]
    reveal: np.ndarray | None = None

    def graded(self, colour: np.ndarray) -> "Mover":
        return replace(self, levels=tuple(patch.graded(colour) for patch in self.levels))

    def paint(self, canvas: np.ndarray, zoom: complex, shift: complex, k: int, s: int) -> None:
        """Lay it over `canvas` at sub-exposure `s` of frame `k`; the camera takes z to zoom * z + shift."""
        grow, alpha = zoom * self.grow[k][s], self.alpha[k][s]
        patch = next((p for p in reversed(self.levels) if p.density >= 0.9 * abs(grow)), self.levels[0])
        if self.reveal is not None and 0 < alpha < 1:
            shown = np.clip((1.15 * alpha - self.reveal) / 0.15, 0, 1)
            patch, alpha = Patch(patch.rgba * shown[..., None], patch.origin, patch.density), 1.0
        paint(canvas, patch, grow, zoom * self.where[k][s] + shift, alpha)


@dataclass(frozen=True)
class Scene:
    """All that is drawn once per clip. Tracks are [frame][sub-exposure]."""

    size: tuple[int, int]  # height, width in pixels
    worlds: list[Patch]  # one for each frame, or one for all
    zoom: list[list[complex]]  # the camera: units z to pixels zoom * z + shift
    shift: list[list[complex]]
    movers: list[Mover]
    gain: np.ndarray  # (num_frames,) flicker of the brightness, about 1
    blur: float  # pixels, 0 for none
    noise: float  # standard deviation in grey levels
    grain: np.ndarray  # (num_frames, 2) where in the noise bank each frame's noise starts, 0..1
    quality: int | None  # of the JPEG compression

    def frame(self, k: int) -> np.ndarray:
        """uint8 RGB (height, width, 3)."""
        exposures = len(self.zoom[k])
        picture = self._expose(k, 0)
        for s in range(1, exposures):
            picture += self._expose(k, s)
        if self.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), self.blur)
        noise = _noise(self.size, self.grain[k])
        picture = cv2.addWeighted(picture, self.gain[k] / exposures, noise, self.noise, 0, dtype=cv2.CV_8U)
        picture = cv2.cvtColor(picture, cv2.COLOR_RGBA2RGB)
        if self.quality is not None:
            _, code = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, self.quality))
            picture = cv2.imdecode(code, cv2.IMREAD_COLOR)
        return picture

    def _expose(self, k: int, s: int) -> np.ndarray:
        zoom, shift = self.zoom[k][s], self.shift[k][s]
        world = self.worlds[k % len(self.worlds)]
        grow = zoom / world.density
        matrix = affine(grow, shift - grow * world.origin)
        picture = cv2.warpAffine(world.rgba, matrix, self.size[::-1], borderMode=cv2.BORDER_REFLECT_101)
        for mover in self.movers:
            mover.paint(picture, zoom, shift, k, s)
        return picture


@cache
def _noise_bank() -> np.ndarray:
    """RGBA sensor noise of unit variance, more in brightness than in colour."""
    rng = np.random.default_rng(4)
    common = rng.standard_normal((640, 640, 1), dtype=np.float32)
    return np.float32(0.8) * common + np.float32(0.6) * rng.standard_normal((640, 640, 4), dtype=np.float32)


def _noise(size: tuple[int, int], start: np.ndarray) -> np.ndarray:
    """A window of the noise bank; in large frames the grain grows instead of the bank."""
    coarse = -(-max(size) // 320)
    h, w = -(-size[0] // coarse), -(-size[1] // coarse)
    top, left = (start * (640 - h, 640 - w)).astype(int)
    window = _noise_bank()[top : top + h, left : left + w]
    return window if coarse == 1 else cv2.resize(window, size[::-1], interpolation=cv2.INTER_LINEAR)


@lru_cache(maxsize=4)
def scene_of(clip) -> Scene:
    """The scene of a MotionClip; the last few are kept, for readers that ask frame by frame."""
    rng = np.random.default_rng([clip.seed, clip.label])
    short = min(clip.height, clip.width)
    span = (clip.width / short, clip.height / short)
    exposures = np.linspace(0, rng.uniform(0.3, 0.9) / 31, 3) if rng.random() < 0.2 else np.zeros(1)
    times = np.arange(clip.num_frames)[:, None] / max(clip.num_frames - 1, 1) + exposures
    clutter = clip.clutter * rng.random()
    stage = Stage(rng, times, span, size=(0.3 - 0.14 * clutter) * 1.9 ** rng.random(), clutter=clutter)
    play = MOTIONS[CLASSES[clip.label]](stage)
    view = hand_shake(stage, play.camera)
    middle = complex(*span) / 2
    zoom = short * view.scale * np.exp(-1j * view.angle)
    shift = short * middle - zoom * (view.x + 1j * view.y + middle)
    density = float(np.abs(zoom).max())
    colour = _colour(rng)
    left, top, width, height = _seen(zoom, shift, span, short)
    worlds = clip.material.worlds(rng, width, height, density, clutter, clip.num_frames)
    worlds = [replace(world, origin=-density * complex(left, top)).graded(colour) for world in worlds]
    movers = [mover.graded(colour) for mover in _movers(stage, play, density, clip.material)]
    noise = 8 * clutter * rng.random() * (rng.random() < 0.8)
    blur = rng.uniform(0.003, 0.012) * short * (rng.random() < 0.5 * clutter)
    quality = int(rng.integers(25, 90)) if rng.random() < 0.8 * clutter else None
    flicker = 0.02 * rng.random() ** 2
    grain = rng.random((clip.num_frames, 2))
    gain = np.exp(flicker * rng.standard_normal(clip.num_frames))
    size = (clip.height, clip.width)
    return Scene(size, worlds, zoom.tolist(), shift.tolist(), movers, gain, blur, noise, grain, quality)


def _colour(rng) -> np.ndarray:
    """(4, 4) float32 for Patch.graded: saturation, white balance, contrast and brightness of this camera."""
    saturation, contrast = rng.uniform(0.3, 1.15), rng.uniform(0.65, 1.2)
    grade = np.eye(4)
    grade[:3, :3] = saturation * np.eye(3) + (1 - saturation) * np.array([0.3, 0.59, 0.11])
    grade[:3] *= contrast * np.exp(rng.normal(0, 0.06, (3, 1)))
    grade[:3, 3] = 128 * (1 - contrast) + rng.normal(4, 14)
    return grade.astype(np.float32)


def _seen(zoom: np.ndarray, shift: np.ndarray, span: tuple[float, float], short: int) -> tuple[float, ...]:
    """Left, top, width and height, in units, of all that the camera ever sees."""
    corners = short * np.array([0, span[0], 1j * span[1], complex(*span)])
    seen = (corners - shift[..., None]) / zoom[..., None]  # pixels back to units
    left, top = seen.real.min() - 0.03, seen.imag.min() - 0.03
    return left, top, seen.real.max() + 0.03 - left, seen.imag.max() + 0.03 - top


class Drawn:
    """What a scene is made of: everything drawn."""

    def worlds(
        self, rng, width: float, height: float, density: float, clutter: float, frames: int
    ) -> list[Patch]:
        """The background with its static things, ``width`` x ``height`` units: one, or one for each frame."""
        world = make_background(rng, width, height, density, clutter)
        for _ in range(rng.poisson(2 * clutter * (0.7 + width * height))):
            spot, size = complex(rng.uniform(0, width), rng.uniform(0, height)), 0.14 * 3.5 ** rng.random()
            if rng.random() < 0.12:
                arm, angle = make_arm(rng, 0.5 * size, density), turned(_arm_angle(rng))
                paint(world.rgba, arm, density * angle, density * spot)
            thing = make_group if rng.random() < 0.1 else make_object
            patch, angle = thing(rng, size, density), turned(rng.uniform(0, 7))
            paint(world.rgba, patch, density * angle, density * spot)
        return [world]

    def thing(self, rng, size: float, density: float) -> Patch:
        """Something ``size`` units long that may move."""
        return (make_group if rng.random() < 0.05 else make_object)(rng, size, density)


DRAWN = Drawn()


def _arm_angle(rng) -> float:
    """Arms mostly come from below or the sides."""
    return rng.uniform(-0.2, np.pi + 0.2) if rng.random() < 0.85 else rng.uniform(0, 2 * np.pi)


def _movers(stage: Stage, play: Play, density: float, material: Drawn) -> list[Mover]:
    """The acting things, often a bystander of their kind, hands that hold them, and at times an occluder."""
    rng = stage.rng
    tracks = list(play.actors)
    if len(tracks) == 1 and rng.random() < stage.clutter:  # as many things as in the classes of two
        tracks.insert(int(rng.integers(2)), stage.rest())
    movers = []
    for track in tracks:
        size = stage.size * rng.uniform(0.8, 1.2)
        patch = material.thing(rng, size, density * float(np.max(track.scale)))
        acting = [_mover(rng, patch, track._replace(angle=track.angle + rng.uniform(0, 7)), stage)]
        held = np.min(track.alpha) == 1  # what appears from nothing is not in a hand
        if held and rng.random() < 0.4:
            acting.insert(int(rng.integers(2)), _hand(stage, size, track, density))
        movers += acting
    if rng.random() < 0.25 * stage.clutter:  # something close to the camera, reaching in from a side
        x, y = rng.uniform(0, stage.span)
        x, y = ((0.0, y), (stage.span[0], y), (x, 0.0), (x, stage.span[1]))[rng.integers(4)]
        occluder = make_object(rng, rng.uniform(0.4, 0.8), density)
        movers.append(_mover(rng, occluder, Track(x, y, rng.uniform(0, 7)), stage))
    return movers


def _hand(stage: Stage, size: float, track: Track, density: float) -> Mover:
    """A hand at the rim of the thing it moves; the wrist takes up a share of the thing's turn."""
    rng = stage.rng
    width = min(max(size * rng.uniform(0.35, 0.8), 0.1), 0.28)
    angle = _arm_angle(rng) + rng.uniform(0.0, 0.4) * track.angle
    reach = rng.uniform(0.25, 0.5) * size * track.scale
    scale = track.scale ** rng.uniform(0.5, 1.0)
    held = Track(track.x + reach * np.cos(angle), track.y + reach * np.sin(angle), angle, scale)
    return _mover(rng, make_arm(rng, width, density * float(np.max(scale))), held, stage)


def _mover(rng, patch: Patch, track: Track, stage: Stage) -> Mover:
    def listed(values):
        return np.broadcast_to(values, stage.times.shape).tolist()

    levels, reveal = [patch], None
    if track.wipe:
        h, w = patch.rgba.shape[:2]
        heading = turned(rng.uniform(0, 7))
        across, down = np.linspace(-0.4, 0.4, w), np.linspace(-0.4, 0.4, h)[:, None]
        reveal = np.clip(0.5 + heading.real * across + heading.imag * down, 0, 1).astype(np.float32)
    while levels[-1].density * np.max(track.scale) >= 1.8 * patch.density * np.min(track.scale):
        levels.append(levels[-1].halved())
    grow, where = (
        track.scale * np.exp(1j * np.asarray(track.angle)),
        np.asarray(track.x) + 1j * np.asarray(track.y),
    )
    return Mover(tuple(levels), listed(grow), listed(where), listed(track.alpha), reveal)
