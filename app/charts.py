"""Curves over frame counts, as HTML that keeps its size while they fill in.

The lines are SVG, stretched to their box; labels are text beside it, so that they stay readable on a phone.
The slider's value is the CSS variable ``--frames``: it moves the marker and shades the range of the active
sub-network without asking the server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from app.answers import Point
from app.clips import COUNTS
from app.networks import Pair
from ffn.flexible import nearest

LAST = COUNTS[-1]
TICKS = (1, *range(4, LAST + 1, 4))
CLASSES = 3  # that the chart of confidence follows


@dataclass(frozen=True)
class Line:
    """One curve: its name, its look (a class of the style sheet) and its value at a point."""

    name: str
    look: str
    value: Callable[[Point], float]


def sweep(pair: Pair, points: Sequence[Point], note: str = "") -> str:
    """What ``points`` say and cost, over frame counts; empty axes without any. ``note`` says how far it is."""
    points = sorted(points, key=lambda point: point.frames)
    latency = [Line("this network", "main", lambda point: point.main_cost.ms)]
    work = [Line("this network", "main", lambda point: point.main_cost.gflops)]
    if pair.plain:
        latency.append(Line("plain network", "plain", lambda point: point.plain_cost.ms))
        work.append(Line("plain network", "plain", lambda point: point.plain_cost.gflops))
    bands = _bands(pair.main.frames if pair.main.flexible else ())
    return (
        '<div class="ffn ffn-sweep"><header><h3>Every frame count</h3>'
        f'<small role="status">{escape(note)}</small></header><div class="ffn-charts">'
        + _chart(
            "Confidence", "of the top classes", _confidence(pair, points), points, bands, "{:.0%}".format, 1
        )
        + _chart("Latency", "of the network, here and now", latency, points, bands, "{:.3g} ms".format)
        + _chart("Work", "billions of multiply-adds", work, points, bands, "{:.3g}".format)
        + "</div></div>"
    )


def _confidence(pair: Pair, points: Sequence[Point]) -> list[Line]:
    """The classes most probable over all points, and the plain network's belief in the first of them."""
    if not points:
        return []
    mean = sum(point.main.probabilities for point in points) / len(points)
    best = mean.topk(min(CLASSES, len(mean))).indices.tolist()
    lines = [
        Line(pair.main.class_name(i), look, lambda point, i=i: point.main.probabilities[i].item())
        for i, look in zip(best, ("main", "second", "third"), strict=False)
    ]
    if pair.plain:
        first, name = best[0], f"the plain network on {pair.main.class_name(best[0])}"
        lines.append(Line(name, "plain", lambda point: point.plain.probabilities[first].item()))
    return lines


def _chart(
    title: str,
    subtitle: str,
    lines: Sequence[Line],
    points: Sequence[Point],
    bands: str,
    show: Callable[[float], str],
    top: float | None = None,
) -> str:
    values = [[line.value(point) for point in points] for line in lines]
    top = top or _round_up(max((value for row in values for value in row), default=0))
    curves = "".join(_curve(line, points, row, top) for line, row in zip(lines, values, strict=True))
    scale = "".join(f'<span style="bottom:{share:.0%}">{show(share * top)}</span>' for share in (0, 0.5, 1))
    ticks = "".join(f'<span style="left:{_x(tick):.2f}%">{tick}</span>' for tick in TICKS)
    keys = "".join(f'<li class="{line.look}">{escape(line.name)}</li>' for line in lines)
    tips = _tips(lines, points, values, show)
    return (
        f'<figure class="ffn-chart"><figcaption><b>{title}</b> <small>{subtitle}</small></figcaption>'
        f'<div class="plot"><div class="scale">{scale if points else ""}</div>'
        f'<div class="area" role="img" aria-label="{title} over frames, {len(points)} measured">{bands}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{curves}</svg>'
        f'<i class="marker"></i>{tips}</div><div class="ticks">{ticks}</div></div><ul>{keys}</ul></figure>'
    )


def _curve(line: Line, points: Sequence[Point], values: Sequence[float], top: float) -> str:
    places = [
        f"{_x(p.frames):.2f},{100 - 100 * value / top:.2f}" for p, value in zip(points, values, strict=True)
    ]
    if len(places) == 1:
        places *= 2  # a line of one point shows its round end
    return f'<polyline class="{line.look}" points="{" ".join(places)}"/>'


def _tips(
    lines: Sequence[Line], points: Sequence[Point], values: Sequence[Sequence[float]], show: Callable
) -> str:
    """A column of the chart for every frame count: a click takes it, a pointer reads its values."""
    texts = dict.fromkeys(COUNTS, "not measured yet")
    for place, point in enumerate(points):
        said = [f"{line.name}: {show(row[place])}" for line, row in zip(lines, values, strict=True)]
        texts[point.frames] = "\n".join(said)
    return "".join(
        f'<i data-frames="{frames}" title="{_frames(frames)}\n{escape(text)}"></i>'
        for frames, text in texts.items()
    )


def _bands(frequencies: Sequence[int]) -> str:
    """The range of frame counts that each sub-network serves; the active one is shaded by the style sheet."""
    bands = []
    for frequency, counts in groupby(COUNTS, lambda count: nearest(frequencies, count)) if frequencies else ():
        first, *rest = counts
        last = rest[-1] if rest else first
        left, width = 100 * (first - 1) / LAST, 100 * (last - first + 1) / LAST
        bands.append(
            f'<i class="band" style="--first:{first};--last:{last};left:{left:.2f}%;width:{width:.2f}%">'
            f"<span>{frequency}</span></i>"
        )
    return "".join(bands)


def _x(frames: int) -> float:
    """Where a frame count stands, in per cent of the width."""
    return 100 * (frames - 0.5) / LAST


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8 times a power of ten: an end for an axis."""
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)


def _frames(count: int) -> str:
    return "1 frame" if count == 1 else f"{count} frames"
