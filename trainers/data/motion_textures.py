"""Procedural textures and colours for the Motion data set.

A bank of grey textures and one of colour ramps are made once per process from fixed seeds; a clip's
surfaces are random windows of the one seen through the other. Random numbers are never drawn per pixel of
the output, so one seed gives the same picture at every resolution.
"""

from functools import cache

import cv2
import numpy as np

BANK_SIZE = 256  # side of a bank texture in pixels; every one of them tiles seamlessly
SLOPES = (2.0, 0.7, 1.0, 1.3, 1.3, 1.6, 1.6, 2.0)  # of the fractal textures, which come first in the bank
SMOOTHEST = 0  # index of a texture with the steepest slope


def _equalised(field: np.ndarray) -> np.ndarray:
    """uint8 picture with a flat histogram, so that a palette is used over its whole length."""
    ranks = np.searchsorted(np.sort(field, axis=None), field)
    return (ranks * (255.0 / field.size)).astype(np.uint8)


def _fractal(rng, slope: float) -> np.ndarray:
    """Noise whose amplitude falls as 1/f**slope: clouds, plaster, cloth, grass."""
    f = np.hypot(np.fft.fftfreq(BANK_SIZE)[:, None], np.fft.rfftfreq(BANK_SIZE)[None])
    f[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((BANK_SIZE, BANK_SIZE))) / f**slope
    field = np.fft.irfft2(spectrum, s=(BANK_SIZE, BANK_SIZE))
    return field / field.std()


def _stripes(rng, count: int, wobble: float) -> np.ndarray:
    """Parallel bands bent by noise: wood grain, cloth, blinds."""
    phase = np.arange(BANK_SIZE)[:, None] * (2 * np.pi * count / BANK_SIZE) + wobble * _fractal(rng, 1.8)
    return np.sin(phase) + 0.15 * _fractal(rng, 1.0)


def _cells(rng, count: int) -> np.ndarray:
    """Voronoi cells of constant value: stones, patches, mosaics."""
    y, x = np.mgrid[:BANK_SIZE, :BANK_SIZE].astype(np.float32)
    best, value = np.full(x.shape, np.inf, np.float32), np.zeros(x.shape, np.float32)
    for px, py, level in rng.random((count, 3), dtype=np.float32) * (BANK_SIZE, BANK_SIZE, 1):
        dx, dy = np.abs(x - px), np.abs(y - py)
        d = np.minimum(dx, BANK_SIZE - dx) ** 2 + np.minimum(dy, BANK_SIZE - dy) ** 2
        value[d < best] = level
        best = np.minimum(best, d)
    return value + 0.05 * _fractal(rng, 1.2)


def _tiles(rng, rows: int, columns: int, shift: bool) -> np.ndarray:
    """Bricks, floor tiles, shelves of books: a grid of plain cells with dark joints."""
    y, x = np.mgrid[:BANK_SIZE, :BANK_SIZE] / BANK_SIZE
    row = (y * rows).astype(int)
    across = (x * columns + 0.5 * (row % 2) * shift) % columns
    joint = (across % 1 < 0.08) | ((y * rows) % 1 < 0.08)
    return np.where(joint, -0.3, rng.random((rows, columns))[row, across.astype(int)]) + 0.05 * _fractal(
        rng, 1.2
    )


def _clutter(rng, count: int) -> np.ndarray:
    """Overlapping rectangles of all sizes: a crowded shelf, print, a cluttered desk."""
    field = 0.2 * _fractal(rng, 1.5)
    for _ in range(count):
        h, w = (BANK_SIZE * 10 ** rng.uniform(-2, -0.6, 2)).astype(int) + 2
        rows = (np.arange(h) + rng.integers(BANK_SIZE)) % BANK_SIZE
        columns = (np.arange(w) + rng.integers(BANK_SIZE)) % BANK_SIZE
        field[np.ix_(rows, columns)] = rng.normal() + 0.1 * rng.normal()
    return field


@cache
def texture_bank() -> tuple[tuple[np.ndarray, ...], ...]:
    """Grey textures that all clips share, each as a pyramid (full size first); made once per process."""
    rng = np.random.default_rng(20230518)
    fields = [_fractal(rng, slope) for slope in SLOPES]
    fields += [
        _stripes(rng, count, wobble) for count, wobble in ((3, 1.0), (6, 2.0), (9, 0.3), (14, 1.0), (4, 4.0))
    ]
    fields += [_cells(rng, count) for count in (12, 40, 120)]
    fields += [_tiles(rng, *grid) for grid in ((8, 4, True), (5, 5, False), (4, 16, False))]
    fields += [_clutter(rng, count) for count in (60, 150, 300)]
    bank = []
    for field in fields:
        levels = [_equalised(field)]
        while levels[-1].shape[0] > 16:
            levels.append(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        bank.append(tuple(levels))
    return tuple(bank)


def _palette(rng) -> np.ndarray:
    """(256, 1, 3) uint8 colour ramp: shades of one mostly muted colour, at times running into another."""
    vivid = rng.random() < 0.12
    hue, saturation = rng.random(), rng.beta(3, 2) if vivid else rng.beta(1.1, 3.5)
    # Wood, skin, card and cloth: most things indoors are brownish.
    hue, value = hue if vivid or rng.random() < 0.5 else rng.normal(0.08, 0.04) % 1, rng.uniform(0.18, 0.95)
    spread, stops = 0.02 + 0.25 * rng.random() ** 2, []
    for _ in range(4):
        h = (hue + rng.normal(0, 0.025) + (rng.random() < 0.07) * rng.random()) % 1.0
        v = np.clip(value + rng.normal(0, spread), 0.03, 1.0)
        s = np.clip(saturation + rng.normal(0, 0.06), 0, 1)
        channels = np.clip(np.abs((h * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
        stops.append(255 * v * (1 - s + s * channels))
    at = np.linspace(0, 3, 256)
    ramp = np.stack([np.interp(at, range(4), c) for c in np.transpose(stops)], axis=-1)
    return ramp.astype(np.uint8)[:, None]


@cache
def palette_bank() -> tuple[np.ndarray, ...]:
    """Colour ramps that all clips share, from the calmest to the richest in contrast."""
    rng = np.random.default_rng(20230601)
    return tuple(sorted((_palette(rng) for _ in range(1000)), key=lambda ramp: ramp.std(axis=0).sum()))


def palette(rng, calm: bool = False) -> np.ndarray:
    """A ramp of the bank; `calm` ones suit large surfaces."""
    bank = palette_bank()
    return bank[int(len(bank) * rng.random() ** (2.0 if calm else 0.8))]


def pattern(rng, height: int, width: int, density: float, finest: float = 0.4) -> np.ndarray:
    """(height, width) uint8 piece of one random texture; `finest` is its least period in frame units."""
    bank = texture_bank()
    pyramid = bank[int(len(bank) * rng.random())]
    period = finest * 5 ** rng.random()
    angle = 0.5 * np.pi * int(4 * rng.random()) + rng.normal(0, 0.05)
    if rng.random() < 0.4:
        angle = 2 * np.pi * rng.random()
    stretch = 0.35 if rng.random() < 0.3 else 1.0
    x, y = rng.random(), rng.random()
    level = min(max(int(np.log2(BANK_SIZE / (period * density))), 0), len(pyramid) - 1)
    side = pyramid[level].shape[0]
    step = side / (period * density)
    c, s = np.cos(angle) * step, np.sin(angle) * step
    matrix = np.array([[c, -s, x * side], [s * stretch, c * stretch, y * side]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(pyramid[level], matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP)


def coloured(grey: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32 RGB of a uint8 pattern."""
    return cv2.applyColorMap(grey, ramp).astype(np.float32)


def surface(
    rng, height: int, width: int, density: float, finest: float = 0.4, calm: bool = False
) -> np.ndarray:
    """(height, width, 3) float32 RGB of a random pattern in random colours."""
    return coloured(pattern(rng, height, width, density, finest), palette(rng, calm))


def lighting(rng, height: int, width: int) -> np.ndarray:
    """(height, width) float32 factor: the slow light and shade of a room."""
    clouds = texture_bank()[SMOOTHEST][-1]
    x, y = rng.integers(0, 12, 2)
    field = cv2.resize(clouds[y : y + 4, x : x + 4], (width, height), interpolation=cv2.INTER_CUBIC)
    return 1 + rng.uniform(0, 0.7) * (field * np.float32(1 / 255) - np.float32(0.7))
