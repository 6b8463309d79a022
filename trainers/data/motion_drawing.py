"""Drawing for the Motion data set: patches, objects, hands and backgrounds, all made procedurally.

Lengths are in frame units (the short side of the picture is 1) and only become pixels at the last moment,
through `density` (pixels per unit). Points of the plane are complex numbers x + iy, y downwards, so a scale
and a turn are one complex factor. Pictures are float32 in 0..255; whatever gets painted or painted on is
RGBA, premultiplied by an alpha in 0..1 (and OpenCV warps four channels in half the time of three).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from trainers.data.motion_textures import coloured, lighting, palette, pattern, surface

SKINS = np.array([[236, 188, 160], [214, 158, 126], [186, 128, 96], [140, 92, 66], [96, 62, 46]], np.float32)
ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
CIRCLE = np.cos(ANGLES), np.sin(ANGLES)


# ---------------------------------------------------------------- patches


@dataclass(frozen=True)
class Patch:
    """A cut-out: premultiplied float32 RGBA (h, w, 4), the pixel of its origin, and its pixels per unit."""

    rgba: np.ndarray
    origin: complex
    density: float

    def halved(self) -> "Patch":
        small = cv2.resize(self.rgba, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        ratio = small.shape[0] / self.rgba.shape[0]
        return Patch(small, self.origin * ratio, self.density * ratio)

    def graded(self, colour: np.ndarray) -> "Patch":
        """With the (4, 4) `colour` matrix applied to each RGBA; its last column is what full alpha adds."""
        return Patch(np.ascontiguousarray(self.rgba @ colour.T), self.origin, self.density)


def affine(grow: complex, move: complex) -> np.ndarray:
    """The similarity z -> grow * z + move of the plane x + iy as OpenCV's (2, 3) matrix."""
    return np.array([[grow.real, -grow.imag, move.real], [grow.imag, grow.real, move.imag]])


def paint(canvas: np.ndarray, patch: Patch, grow: complex, move: complex, opacity: float = 1.0) -> None:
    """Lay `patch` over the RGBA `canvas` in place, its point z (in units) at the pixel grow * z + move.

    Plain Python numbers here: numpy's cost per call would be most of the time spent on so small a patch.
    """
    grow = grow / patch.density
    move = move - grow * patch.origin
    h, w = patch.rgba.shape[:2]
    corners = (move, move + grow * w, move + grow * 1j * h, move + grow * (w + 1j * h))
    xs, ys = [z.real for z in corners], [z.imag for z in corners]
    left, top = max(int(min(xs)) - 2, 0), max(int(min(ys)) - 2, 0)
    right, bottom = min(int(max(xs)) + 2, canvas.shape[1]), min(int(max(ys)) + 2, canvas.shape[0])
    if left >= right or top >= bottom or opacity <= 0:
        return
    over = cv2.warpAffine(patch.rgba, affine(grow, move - complex(left, top)), (right - left, bottom - top))
    if opacity < 1:
        over *= opacity
    under = canvas[top:bottom, left:right]
    under *= cv2.merge([1 - over[..., 3]] * 4)
    under += over


def turned(angle: float) -> complex:
    """The factor that turns by `angle` radians, clockwise on the screen."""
    return complex(np.cos(angle), np.sin(angle))


# ---------------------------------------------------------------- outlines


def _superellipse(power: float, aspect: float) -> np.ndarray:
    """From a box (power near 0) over an ellipse (1) to a lozenge (2)."""
    along, across = (np.copysign(np.abs(c) ** power, c) for c in CIRCLE)
    return 0.5 * along + (0.5j / aspect) * across


def _blob(rng, aspect: float) -> np.ndarray:
    radius = 1 + sum(rng.normal(0, 0.22 / k) * np.cos(k * ANGLES + rng.uniform(0, 7)) for k in range(2, 7))
    points = radius * (CIRCLE[0] + (1j / aspect) * CIRCLE[1])
    return points / max(np.ptp(points.real), np.ptp(points.imag))


def _bottle(rng, aspect: float) -> np.ndarray:
    """A turned profile: bottle, cup, lamp, pen, depending on its five random radii."""
    along = np.linspace(-0.5, 0.5, 24)
    radius = np.interp(along, np.linspace(-0.5, 0.5, 5), rng.uniform(0.35, 1.0, 5)) * 0.5 / aspect
    return np.concatenate([along + 1j * radius, (along - 1j * radius)[::-1]])


def _polygon(rng, aspect: float) -> np.ndarray:
    t = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
    return 0.5 * np.cos(t) + (0.5j / aspect) * np.sin(t)


def outline(rng, least_aspect: float = 1.2) -> np.ndarray:
    """(n,) complex polygon, about 1 unit long along x: box, pebble, blob, bottle or shard."""
    aspect = least_aspect * 2.2 ** rng.random()
    kind = rng.integers(7)
    if kind <= 2:
        return _superellipse(rng.uniform(0.05, 0.5), aspect)
    if kind == 3:
        return _superellipse(1.0, aspect)
    return (_blob, _bottle, _polygon)[kind - 4](rng, aspect)


def _mask(points: np.ndarray, shape: tuple[int, int], origin: complex, density: float) -> np.ndarray:
    """float32 coverage in 0..1 of a complex polygon given in units."""
    mask = np.zeros(shape, np.uint8)
    pixels = (points * density + origin) * 16  # fillPoly takes sixteenths of a pixel
    corners = pixels.view(np.float64).reshape(-1, 2).astype(np.int32)
    cv2.fillPoly(mask, [corners], 255, lineType=cv2.LINE_AA, shift=4)
    return mask * np.float32(1 / 255)


def _cut(rgb: np.ndarray, light: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Premultiplied RGBA of a picture lit by `light`; alpha without light is shadow."""
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA) * cv2.merge([light, light, light, alpha])


# ---------------------------------------------------------------- things


def make_object(rng, size: float, density: float, look=None) -> Patch:
    """One shaded object, `size` units long: `look` is of its side in pixels and gives its (side, side, 3)
    picture, by default a texture with markings that give its orientation away."""
    side = int(np.ceil(size * density * 1.35)) + 4
    shape, origin, unit = (side, side), complex(side / 2, side / 2), size * density
    mask = _mask(outline(rng), shape, origin, unit)
    rgb = look(side) if look else _marked(rng, shape, origin, unit, density)
    # Light from one side and a darker rim make a cut-out look like a solid thing.
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    across, down, rim = rng.normal(0, 0.2), rng.normal(0, 0.2), rng.uniform(0, 0.6)
    soft = cv2.GaussianBlur(mask, (0, 0), max(0.06 * unit, 0.4))
    light = (1 + across * ramp + down * ramp[:, None]) * (1 - rim * (1 - soft))
    # The shadow belongs to the patch: black, blurred, a little to one side.
    strength, offset = max(rng.uniform(-0.3, 0.6), 0.0), complex(*rng.normal(0, 0.04, 2))
    shadow = strength * cv2.warpAffine(soft, affine(1, offset * unit), shape)
    return Patch(_cut(rgb, light * mask, mask + (1 - mask) * shadow), origin, density)


def _marked(rng, shape: tuple[int, int], origin: complex, unit: float, density: float) -> np.ndarray:
    grain = pattern(rng, *shape, density, finest=0.12)
    rgb = coloured(grain, palette(rng, calm=rng.random() < 0.5))
    for _ in range(rng.integers(1, 4)):  # labels, lids, screens: smaller outlines off the centre
        mark = outline(rng, 1.0) * turned(rng.uniform(0, 7)) * rng.uniform(0.25, 0.7)
        on = _mask(mark + complex(*rng.uniform(-0.3, 0.3, 2)), shape, origin, unit)
        rgb = cv2.blendLinear(coloured(grain, palette(rng)), rgb, on, 1 - on)
    return rgb


def make_group(rng, size: float, density: float) -> Patch:
    """Two or three objects close together that move as one."""
    side = int(np.ceil(size * density * 1.35)) + 4
    rgba, centre = np.zeros((side, side, 4), np.float32), complex(side / 2, side / 2)
    first = rng.uniform(0, 7)
    for k in range(rng.integers(2, 4)):
        part = make_object(rng, size * rng.uniform(0.45, 0.7), density)
        spot = centre + 0.27 * size * density * turned(first + 2.1 * k)
        paint(rgba, part, density * turned(rng.uniform(0, 7)), spot)
    return Patch(rgba, centre, density)


def make_arm(rng, width: float, density: float) -> Patch:
    """A hand at the origin on a forearm that leaves along +x, 1.7 units long; the fist is `width` units."""
    length = 1.7
    shape = (int(2 * width * density) + 4, int((length + width) * density) + 4)
    origin = complex(width * density, shape[0] / 2)
    skin = SKINS[rng.integers(len(SKINS))] * np.float32(rng.uniform(0.75, 1.1))
    rgb = 0.85 * skin + 0.15 * surface(rng, *shape, density, finest=0.3)
    wrist, elbow = 1j * width * rng.uniform(0.3, 0.4), 1j * width * rng.uniform(0.45, 0.8)
    arm = np.array([-wrist, length - elbow, length + elbow, wrist])
    fist = width * rng.uniform(0.9, 1.2) * _superellipse(0.8, rng.uniform(1.0, 1.3))
    mask = np.maximum(_mask(arm, shape, origin, density), _mask(fist, shape, origin, density))
    for spread in (-0.36, -0.12, 0.12, 0.36):  # four fingers, each in its own slight shade
        finger = width * (rng.uniform(0.7, 0.9) * _superellipse(0.6, 3.5) + complex(-0.45, spread))
        on = _mask(finger, shape, origin, density)
        tone = np.full_like(rgb, skin * np.float32(rng.uniform(0.85, 1.05)))
        rgb = cv2.blendLinear(tone, rgb, on, 1 - on)
        mask = np.maximum(mask, on)
    cuff = int(
        origin.real + rng.uniform(0.3, 1.6) * density
    )  # the sleeve begins here; past the end: a bare arm
    if cuff < shape[1]:
        rgb[:, cuff:] = surface(rng, shape[0], shape[1] - cuff, density, finest=0.2)
    across = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    return Patch(_cut(rgb, mask * (1.05 - 0.5 * across**2), mask), origin, density)


def make_background(rng, width: float, height: float, density: float, clutter: float) -> Patch:
    """Walls, a table, furniture and lighting, `width` x `height` units; its origin is its top left corner."""
    h, w = int(np.ceil(height * density)), int(np.ceil(width * density))
    rgb, one = surface(rng, h, w, density, calm=True), np.ones((h, w), np.float32)
    if rng.random() < 0.6:  # a table or floor below a tilted edge
        left, right = height * (rng.uniform(0.25, 0.8) + rng.normal(0, 0.06) * np.array([-1, 1]))
        plane = np.array([1j * left, width + 1j * right, complex(width, 2 * height), 2j * height])
        below = _mask(plane, (h, w), 0j, density)
        # A contact shadow runs along the edge, on the wall.
        dark = 1 - max(rng.uniform(-0.4, 0.6), 0.0) * cv2.GaussianBlur(below, (0, 0), 0.04 * density)
        rgb = cv2.blendLinear(surface(rng, h, w, density, calm=True), rgb, below, (1 - below) * dark)
    rgba = _cut(rgb, one, one)
    for _ in range(rng.poisson(2.4 * clutter * width * height)):  # pictures, doors, cushions, lamps
        thing = make_object(rng, rng.uniform(0.3, 0.9), density)
        angle, spot = (
            rng.integers(4) * np.pi / 2 + rng.normal(0, 0.1),
            complex(*rng.uniform(0, (width, height))),
        )
        paint(rgba, thing, density * turned(angle), density * spot)
    light = lighting(rng, h, w)
    return Patch(rgba * cv2.merge([light, light, light, one]), 0j, density)
