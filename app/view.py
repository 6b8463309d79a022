"""What the page shows of a prediction, as HTML. Every part keeps its size while the values in it change."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

import cv2
import numpy as np

from ffn.predict import Prediction
from ffn.preprocess import Preprocess
from ffn.video import LoadedClip

TOP = 5

HEADER = """<header class="ffn ffn-header">
<h1>Frame Flexible Network</h1>
<p>One video network, trained once, that serves every frame count; it tells how things move.</p>
<p>Take a clip and <b>drag the slider</b>: the network on the left stays sure;
the one on the right was trained at {frames} frames only.</p>
</header>"""

CSS = """
.ffn { --soft: color-mix(in srgb, var(--body-text-color) 68%, transparent); --line: var(--border-color-primary);
  color: var(--body-text-color); font-variant-numeric: tabular-nums; line-height: 1.35; }
.ffn h3 { font-size: .95rem; font-weight: 600; margin: 0; }
.ffn small { font-size: .8rem; color: var(--soft); }
.html-container:has(.ffn) { padding: 0 !important; }

.ffn-header h1 { font-size: 1.7rem; font-weight: 700; margin: 0 0 .3rem; }
.ffn-header p { margin: 0; line-height: 1.5; color: var(--soft); }
.ffn-header b { color: var(--body-text-color); }

.ffn-message { min-height: 2.8em; font-size: .875rem; line-height: 1.4; overflow-wrap: anywhere;
  color: var(--soft); }
.ffn-message[role=alert] { color: #b91c1c; font-weight: 600; }
.dark .ffn-message[role=alert] { color: #fca5a5; }

.ffn-chips { display: flex; gap: .4rem; align-items: center; margin-bottom: .75rem; }
.ffn-chips span { font-size: .875rem; margin-right: .4rem; white-space: nowrap; }
.ffn-chips b { flex: 0 1 3rem; padding: .2rem 0; text-align: center; border-radius: 99px; font-size: .9rem;
  font-weight: 500; border: 1px solid var(--line); color: var(--soft); }
.ffn-chips b[aria-current] { font-weight: 700; color: #fff; background: #2563eb; border-color: #2563eb; }

.ffn-panels { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }
.ffn-panel { padding: .8rem; min-width: 0; border: 1px solid var(--line); border-radius: 10px;
  background: var(--block-background-fill); }
.ffn-panel header { height: 2.9rem; }
.ffn-panel ol { list-style: none; margin: .6rem 0 0; padding: 0; }
.ffn-panel li { margin: 0 0 .5rem; }
.ffn-panel li span { display: block; height: 1.4em; overflow: hidden; font-size: .85rem; white-space: nowrap;
  text-overflow: ellipsis; color: var(--soft); }
.ffn-panel li div { display: flex; align-items: center; gap: .5rem; font-size: .8rem; }
.ffn-panel li i { flex: 1; height: 7px; border-radius: 4px; overflow: hidden; background: var(--line); }
.ffn-panel li i::before { content: ""; display: block; height: 100%; width: var(--p); background: #94a3b8; }
.ffn-panel li b { width: 3.4em; text-align: right; font-weight: 500; }
.ffn-panel li.same i::before { background: #2563eb; }
.ffn-panel li.same span, .ffn-panel li.same b { font-weight: 700; color: var(--body-text-color); }

.ffn-latency { display: grid; grid-template-columns: repeat(3, 1fr); gap: .75rem; margin: .75rem 0 0; }
.ffn-latency div { display: flex; flex-direction: column; justify-content: space-between; min-width: 0;
  padding: .5rem .8rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--background-fill-secondary); }
.ffn-latency dt { font-size: .8rem; color: var(--soft); }
.ffn-latency dd { margin: 0; font-weight: 600; }

.ffn-strip h3 { margin-bottom: .5rem; }
.ffn-strip div { display: grid; gap: .5rem; grid-template-columns: repeat(16, 1fr); }
.ffn-strip figure { margin: 0; min-width: 0; }
.ffn-strip img { display: block; width: 100%; aspect-ratio: 1; margin: 0; border-radius: 6px;
  background: var(--line); }
.ffn-strip figcaption { font-size: .72rem; text-align: center; color: var(--soft); }
.ffn-strip .unused { visibility: hidden; }
.ffn-strip .unused::before { content: ""; display: block; aspect-ratio: 1; }

#examples .gallery:not(.container) { display: grid; grid-template-columns: repeat(3, 1fr); }
#examples .container { width: 100%; max-width: none; height: auto; aspect-ratio: 4 / 3; }
#clip button[aria-label^="Trim"], #clip button[aria-label^="Reset"], footer .divider { display: none; }

@media (max-width: 900px) {
  .ffn-strip div { grid-template-columns: repeat(8, 1fr); }
}
@media (max-width: 640px) {
  .ffn-header h1 { font-size: 1.4rem; }
  .ffn-panels, .ffn-latency { gap: .5rem; }
  .ffn-panel, .ffn-latency div { padding: .5rem; }
  .ffn-panel header { height: 4.6rem; }
  .ffn-panel li span { display: grid; align-items: end; height: 2.6em; font-size: .7rem; line-height: 1.3;
    white-space: normal; }
  .ffn-panel li.same span { font-weight: 400; }
  .ffn-latency dt { font-size: .72rem; }
  .ffn-strip div { grid-template-columns: repeat(5, 1fr); }
  footer { display: none !important; }
}
"""


def message(text: str, error: bool = False) -> str:
    role = "alert" if error else "status"
    return f'<div class="ffn ffn-message" role="{role}">{escape(text)}</div>'


def results(
    flexible: Prediction | None,
    plain: Prediction | None,
    decode_ms: float | None,
    frequencies: Iterable[int],
    plain_frames: str,
    active: int | None,
) -> str:
    """Sub-network, both answers side by side and the time they took; with None, the same without values."""
    frequencies = list(frequencies)
    trained = ", ".join(map(str, frequencies[:-1])) + " and " * (len(frequencies) > 1) + str(frequencies[-1])
    best = flexible.top[0][0] if flexible else None
    left = _panel("Frame Flexible Network", f"trained once, at {trained} frames", flexible, best)
    right = _panel("Plain network", f"trained at {plain_frames} frames only", plain, best)
    times = {
        "Decoding, once": decode_ms,
        "Preprocessing": flexible and flexible.preprocess_ms,
        "Network": flexible and flexible.network_ms,
    }
    return (
        f'<div class="ffn">{_chips(frequencies, active)}<div class="ffn-panels">{left}{right}</div>'
        f"{_latency(times)}</div>"
    )


def strip(clip: LoadedClip | None, prediction: Prediction | None, preprocess: Preprocess, slots: int) -> str:
    """The frames of a clip that the networks see, as they see them: cropped to the centre.

    There are always ``slots`` places, those not needed invisible, so that the page keeps its height.
    """
    figures = []
    if clip and prediction:
        seen = zip(clip.read(prediction.indices), prediction.indices, strict=True)
        figures = [_figure(image, index / clip.fps, preprocess) for image, index in seen]
    unused = '<figure class="unused"><figcaption>&nbsp;</figcaption></figure>' * (slots - len(figures))
    count = len(figures)
    title = f"The {count} frame{'s' * (count != 1)} the networks see" if count else "&nbsp;"
    return f'<div class="ffn ffn-strip"><h3>{title}</h3><div>{"".join(figures)}{unused}</div></div>'


def _chips(frequencies: Iterable[int], active: int | None) -> str:
    chips = (f"<b{' aria-current=true' * (f == active)}>{f}</b>" for f in frequencies)
    return f'<div class="ffn-chips"><span>Sub-network in use</span>{"".join(chips)}</div>'


def _panel(title: str, subtitle: str, prediction: Prediction | None, best: str | None) -> str:
    top = prediction.top[:TOP] if prediction else []
    bars = "".join(_bar(name, probability, name == best) for name, probability in top)
    bars += _bar("", None, False) * (TOP - len(top))
    header = f"<header><h3>{title}</h3><small>{subtitle}</small></header>"
    return f'<section class="ffn-panel">{header}<ol>{bars}</ol></section>'


def _bar(name: str, probability: float | None, same: bool) -> str:
    """One class; ``same`` lights the class that the flexible network answers, on both sides."""
    percent = "" if probability is None else f"{probability:.1%}"
    return (
        f'<li class="{"same" if same else ""}"><span title="{escape(name)}">{escape(name)}</span>'
        f'<div><i style="--p:{probability or 0:.1%}"></i><b>{percent}</b></div></li>'
    )


def _latency(times: dict[str, float | None]) -> str:
    cells = (
        f"<div><dt>{step}</dt><dd>{'–' if ms is None else f'{ms:.1f} ms'}</dd></div>"
        for step, ms in times.items()
    )
    return f'<dl class="ffn-latency">{"".join(cells)}</dl>'


def _figure(image: np.ndarray, seconds: float, preprocess: Preprocess) -> str:
    when = f"{seconds:.2f} s"
    return (
        f'<figure><img src="{_thumbnail(image, preprocess)}" alt="the frame at {when}">'
        f"<figcaption>{when}</figcaption></figure>"
    )


def _thumbnail(image: np.ndarray, preprocess: Preprocess, side: int = 144) -> str:
    crop = round(min(image.shape[:2]) * preprocess.size / preprocess.resize)
    top, left = ((length - crop) // 2 for length in image.shape[:2])
    square = cv2.resize(image[top : top + crop, left : left + crop], (side, side), None, 0, 0, cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", square[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
