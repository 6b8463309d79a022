"""What the page shows of an answer, as HTML. Every part keeps its size while the values in it change."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from app.answers import TOP, Fit, Stage
from app.networks import Entry, Pair
from ffn.predict import Prediction
from ffn.preprocess import Preprocess
from ffn.video import LoadedClip

HEADER = """<header class="ffn ffn-header">
<h1>Frame Flexible Network</h1>
<p>One video network, trained once, that serves every frame count; it tells how things move.</p>
<p>Take a clip and <b>drag the slider</b>: fewer frames cost less, and the network on the left stays sure.</p>
</header>"""


def message(text: str, error: bool = False) -> str:
    role = "alert" if error else "status"
    return f'<div class="ffn ffn-message" role="{role}">{escape(text)}</div>'


def describe(clip: LoadedClip) -> str:
    """One sentence about a clip that was decoded."""
    frames = count(clip.num_frames, "frame")
    height, width = clip.frames.shape[1:3]
    square = max(height, width) < 1.05 * min(height, width)
    seen = "" if square else " The networks see the square in its middle."
    return f"{frames} in {clip.num_frames / clip.fps:.1f} s, decoded once; the slider picks among them.{seen}"


def results(
    pair: Pair,
    frequency: int | None,
    main: Prediction | None,
    plain: Prediction | None,
    decode_ms: float | None,
) -> str:
    """Sub-network, both answers side by side and the time they took; with None, the same without values."""
    best = main.top[0][0] if main else None
    left = _panel(*_titles(pair.main), _bars(main, best))
    if pair.plain:
        right = _panel(*_titles(pair.plain), _bars(plain, best))
    elif pair.main.flexible:
        right = _panel("Plain network", "none of this kind here", _note(_NO_PLAIN))
    else:
        right = _panel(
            "Nothing beside it", "this network is plain", _note("Pick a frame-flexible one to compare.")
        )
    times = {
        "Decoding, once": decode_ms,
        "Preprocessing": main and main.preprocess_ms,
        "Network": main and main.network_ms,
    }
    return (
        f'<div class="ffn">{_chips(pair.main.frames, frequency)}<div class="ffn-panels">{left}{right}</div>'
        f"{_latency(times)}</div>"
    )


def strip(clip: LoadedClip | None, indices: Sequence[int], preprocess: Preprocess) -> str:
    """The frames of a clip that the networks see, as they see them: cropped to the centre."""
    figures = []
    if clip:
        seen = zip(clip.read(indices), indices, strict=True)
        figures = [_figure(image, clip.seconds_at(index), preprocess) for image, index in seen]
    title = f"The {count(len(figures), 'frame')} the network sees" if figures else "The frames the network sees"
    many = ' class="many"' * (len(figures) > 16)
    return f'<div class="ffn ffn-strip"><h3>{title}</h3><div{many} tabindex="0">{"".join(figures)}</div></div>'


def budget(fit: Fit | None, error: str = "") -> str:
    """How many frames a time budget allows."""
    if error or not fit:
        return _outcome(escape(error or "The network is measured on this machine, here and now."), bool(error))
    more = f"; {fit.frames + 1} would take {fit.more_ms:.1f} ms" if fit.more_ms else ""
    return _outcome(f"<b>{count(fit.frames, 'frame')}</b> in {fit.ms:.1f} ms{more}. The slider stands there.")


def cascade(stages: Sequence[Stage], confidence: float, error: str = "") -> str:
    """The stages of a cascade, where it stopped, and what it saved against always taking the most frames."""
    if error or not stages:
        return _outcome(escape(error or "It stops at the first stage that is sure enough."), bool(error))
    tried = [stage for stage in stages if stage.prediction]
    sure = tried[-1].prediction.top[0][1] >= confidence
    spent, most = sum(stage.cost.gflops for stage in tried), stages[-1].cost.gflops
    end = f"{'Sure' if sure else 'Not sure even'} at <b>{count(tried[-1].frames, 'frame')}</b>"
    share = 1 - spent / most
    saved = f"<b>{share:.0%}</b> less work" if share >= 0 else f"{-share:.0%} more work"
    steps = "".join(_stage(stage, confidence) for stage in stages)
    return (
        f'<div class="ffn ffn-outcome" role="status">'
        f"<p>{end}: {saved} than taking {stages[-1].frames} always.</p>"
        f'<ol class="ffn-stages">{steps}</ol></div>'
    )


def live(prediction: Prediction | None, entry: Entry, text: str) -> str:
    """The answer to the last seconds of a camera."""
    best = prediction.top[0][0] if prediction else None
    panel = _panel(*_titles(entry), _bars(prediction, best))
    return (
        f'<div class="ffn">{_chips(entry.frames, prediction and prediction.frequency)}{panel}'
        f'<p class="ffn-message">{escape(text)}</p></div>'
    )


def heading(title: str, text: str) -> str:
    return f'<div class="ffn ffn-choice"><h3>{title}</h3><small>{text}</small></div>'


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


_NO_PLAIN = "Train one to compare: python -m trainers.run --method plain, with the same model and data."


def _titles(entry: Entry) -> tuple[str, str]:
    *most, last = map(str, entry.frames)
    counts = f"{', '.join(most)} and {last}" if most else last
    if entry.flexible:
        return "Frame Flexible Network", f"trained once, at {counts} frames"
    return "Plain network", f"trained at {counts} frames only"


def _note(text: str) -> str:
    return f'<div class="ffn-note"><p>{escape(text)}</p>{_bars(None, None)}</div>'


def _outcome(html: str, error: bool = False) -> str:
    return f'<div class="ffn ffn-outcome" role="{"alert" if error else "status"}"><p>{html}</p></div>'


def _stage(stage: Stage, confidence: float) -> str:
    head = f"<b>{count(stage.frames, 'frame')}</b><small>{stage.cost.ms:.1f} ms</small>"
    if stage.prediction is None:
        return f'<li class="skipped">{head}<span>not needed</span></li>'
    name, probability = stage.prediction.top[0]
    mark = "sure" if probability >= confidence else "unsure"
    return (
        f'<li class="{mark}">{head}<span title="{escape(name)}">{escape(name)}</span>'
        f"<b>{probability:.1%}, {mark}</b></li>"
    )


def _chips(frequencies: Sequence[int], active: int | None) -> str:
    chips = (f"<b{' aria-current=true' * (f == active)}>{f}</b>" for f in frequencies)
    return f'<div class="ffn-chips"><span>Sub-network in use</span>{"".join(chips)}</div>'


def _panel(title: str, subtitle: str, content: str) -> str:
    header = f"<header><h3>{escape(title)}</h3><small>{escape(subtitle)}</small></header>"
    return f'<section class="ffn-panel">{header}{content}</section>'


def _bars(prediction: Prediction | None, best: str | None) -> str:
    top = prediction.top[:TOP] if prediction else []
    bars = "".join(_bar(name, probability, name == best) for name, probability in top)
    return f"<ol>{bars}{_bar('', None, False) * (TOP - len(top))}</ol>"


def _bar(name: str, probability: float | None, same: bool) -> str:
    """One class; ``same`` lights the class that the main network answers, on both sides."""
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
