"""The page: what stands where, and what happens when something is touched.

State is kept per visitor in ``gr.State``; what visitors share (decoded clips, loaded networks) is in
:class:`app.answers.Answers` and does not depend on who asks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr

from app import api, charts, view
from app.answers import Answers
from app.clips import COUNTS, Cut
from app.live import Window
from app.networks import PICKLES, Entry, Pair
from app.recording import Recording
from app.sentences import sentences
from app.settings import ROOT
from ffn.flexible import nearest

FIRST = 8  # where the slider stands at first
REDRAW = 0.3  # seconds between two pictures of a sweep
LIVE_SECONDS = 300  # that a camera is watched before the visitor must start it again
TAKE_ONE = "Upload or record a clip of a moving thing, or take an example."


@dataclass(frozen=True)
class Shown:
    """What a visitor looks at: the networks, and the clip if there is one."""

    pair: Pair
    path: str | None = None
    cut: Cut | None = None  # None: no clip, or one that cannot be used
    seconds: float = 0  # of the whole clip


class Handlers:
    """What the page's events call."""

    def __init__(self, answers: Answers):
        self.answers, self.networks = answers, answers.networks

    def open(self, uploaded: list[Entry], request: gr.Request) -> tuple[dict, str]:
        """The networks to pick from, and the one that the address asks for (``?network=NAME``)."""
        choices, asked = self._choices(uploaded), request.query_params.get("network")
        first = self.networks.first().name
        if asked and asked not in (name for _, name in choices):
            sentence = f"There is no network {asked} here; this is {first}."
            return gr.Dropdown(choices=choices, value=first), view.message(sentence, error=True)
        return gr.Dropdown(choices=choices, value=asked or first), view.message(TAKE_ONE)

    def accept(self, file: str, uploaded: list[Entry], name: str) -> tuple[dict, list[Entry], str]:
        """Add an uploaded checkpoint to this visitor's networks, and pick it."""
        try:
            entry = self.networks.accept(Path(file))
        except ValueError as error:
            return gr.Dropdown(value=name), uploaded, view.message(f"{error}.", error=True)
        uploaded = [other for other in uploaded if other.name != entry.name] + [entry]
        text = f"{entry.label} is ready, for you alone."
        return gr.Dropdown(choices=self._choices(uploaded), value=entry.name), uploaded, view.message(text)

    def look(
        self, path: str | None, start: float, end: float, name: str, uploaded: list[Entry], before: Shown
    ) -> tuple:
        """Find the networks and decode the clip; what is shown now, a message, both ends of the segment."""
        new, pair = path != before.path, before.pair
        try:
            pair = self._pair(name, uploaded)
            if path is None:
                return Shown(pair), view.message(TAKE_ONE), *_ends(0)
            whole = new or (start == 0 and end >= before.seconds)
            cut = self.answers.cut(pair, *((0, None) if whole else (start, end)))
            clip = self.answers.clip(path, cut)
        except ValueError as error:
            failed = Shown(pair) if new else replace(before, pair=pair, cut=None)
            return failed, view.message(f"{error}.", error=True), gr.skip(), gr.skip()
        seconds = math.ceil(10 * clip.num_frames / clip.fps) / 10 if new else before.seconds
        ends = _ends(seconds) if new else (gr.skip(), gr.skip())
        return Shown(pair, path, cut, seconds), view.message(view.describe(clip)), *ends

    @sentences
    def show(self, shown: Shown, frames: int) -> tuple[str, str]:
        """The results and the strip of frames, empty without a clip."""
        frequency = nearest(shown.pair.main.frames, frames)
        preprocess = shown.pair.main.preprocess
        if shown.cut is None:
            results = view.results(shown.pair, frequency, None, None, None)
            return results, view.strip(None, [], preprocess)
        clip = self.answers.clip(shown.path, shown.cut)
        main, plain = self.answers.predict(shown.pair, clip, frames)
        return (
            view.results(shown.pair, main.frequency, main, plain, clip.decode_ms),
            view.strip(clip, main.indices, preprocess),
        )

    @sentences
    def sweep(self, shown: Shown) -> Iterator[str]:
        """The curves over all frame counts, as they fill in."""
        if shown.cut is None:
            yield charts.sweep(shown.pair, [])
            return
        points, drawn = [], 0.0
        for point in self.answers.sweep(shown.pair, self.answers.clip(shown.path, shown.cut)):
            points.append(point)
            if time.monotonic() - drawn > REDRAW and len(points) < len(COUNTS):
                yield charts.sweep(shown.pair, points, f"measuring, {len(points)} of {len(COUNTS)}")
                drawn = time.monotonic()
        yield charts.sweep(shown.pair, points, "Click a curve to go there.")

    def fit(self, shown: Shown, milliseconds: float | None) -> tuple[int | dict, str]:
        """Move the slider to the most frames within a time limit."""
        try:
            if milliseconds is None:
                raise ValueError("Give a time limit in milliseconds")
            fit = self.answers.fit(shown.pair.main, milliseconds)
        except ValueError as error:
            return gr.skip(), view.budget(None, f"{str(error)[0].upper()}{str(error)[1:]}.")
        return fit.frames, view.budget(fit)

    def cascade(self, shown: Shown, confidence: float) -> tuple[int | dict, str]:
        """Few frames first, more while unsure; moves the slider to where it stopped."""
        if shown.cut is None:
            return gr.skip(), view.cascade([], confidence, TAKE_ONE)
        try:
            clip = self.answers.clip(shown.path, shown.cut)
            stages = self.answers.cascade(shown.pair.main, clip, confidence)
        except ValueError as error:
            return gr.skip(), view.cascade([], confidence, f"{error}.")
        last = max(stage.frames for stage in stages if stage.prediction)
        return last, view.cascade(stages, confidence)

    @sentences
    def watch(
        self, image, window: Window | None, seconds: float, frames: int, name: str, uploaded: list[Entry]
    ) -> tuple[Window | None, str, str]:
        """Predict the last ``seconds`` of a camera from ``frames`` frames."""
        entry = self.networks.find(name, uploaded)
        if image is None:
            return None, *self.unwatched(entry)
        window = window or Window()
        window.add(image, seconds, self.answers.cut(Pair(entry, None)).short_side)
        prediction, _ = self.answers.predict(Pair(entry, None), window, frames)
        seen, took = view.count(frames, "frame"), prediction.network_ms
        text = f"The last {window.seconds:.1f} s from {seen}: {took:.1f} ms"
        return (
            window,
            view.live(prediction, entry, text),
            view.strip(window, prediction.indices, entry.preprocess),
        )

    def unwatched(self, entry: Entry) -> tuple[str, str]:
        text = "Start the camera. Its pictures stay in memory, the last few seconds of them; none is stored."
        return view.live(None, entry, text), view.strip(None, [], entry.preprocess)

    def _choices(self, uploaded: list[Entry]) -> list[tuple[str, str]]:
        return [(entry.label, entry.name) for entry in [*uploaded, *self.networks.list()]]

    def _pair(self, name: str, uploaded: list[Entry]) -> Pair:
        pair = self.networks.pair(self.networks.find(name, uploaded))
        for entry in filter(None, (pair.main, pair.plain)):
            self.networks.load(entry)  # now, so that what is wrong with it is said once and here
        return pair


def _ends(seconds: float) -> tuple[dict, dict]:
    """The two ends of the segment, over all of a new clip."""
    ends = {"minimum": 0, "maximum": seconds or 1, "interactive": seconds > 0}
    return gr.Slider(value=0, **ends), gr.Slider(value=seconds or 1, **ends)


def build(answers: Answers) -> gr.Blocks:
    """The whole page.

    Raises:
        CheckpointError: if there is no network to show.
    """
    handlers = Handlers(answers)
    first = Shown(answers.networks.pair(answers.networks.first()))
    examples = [[str(path)] for path in sorted((ROOT / "assets" / "examples").glob("*.webm"))]
    limit = answers.settings.concurrency
    compute = {"concurrency_id": "compute", "concurrency_limit": limit}
    quiet = {"show_progress": "hidden", "api_visibility": "private"}

    with gr.Blocks(title="Frame Flexible Network", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        _html(view.HEADER)
        shown, uploaded = gr.State(first), gr.State([])
        with gr.Row(elem_id="networks"):
            network = gr.Dropdown(
                [(first.pair.main.label, first.pair.main.name)], label="Network", elem_id="network", scale=4
            )
            add = gr.UploadButton(
                "Upload a checkpoint", file_types=[".safetensors", *PICKLES], elem_id="add", min_width=160
            )
        with gr.Tab("A clip"):
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    video = Recording(
                        label="Clip",
                        sources=["upload", "webcam"],
                        webcam_options=gr.WebcamOptions(mirror=False),
                        include_audio=False,
                        height=300,
                        loop=True,
                        autoplay=True,
                        elem_id="clip",
                    )
                    message = _html(view.message(TAKE_ONE), "message")
                    with gr.Row(elem_id="segment"):
                        start, end = (
                            gr.Slider(0, 1, value, step=0.1, label=label, interactive=False, min_width=120)
                            for label, value in (("From second", 0), ("To second", 1))
                        )
                    if examples:
                        gr.Examples(
                            examples, video, label="Examples", elem_id="examples", api_visibility="private"
                        )
                with gr.Column(scale=3, min_width=340):
                    frames = gr.Slider(COUNTS[0], COUNTS[-1], FIRST, step=1, label="Frames", elem_id="frames")
                    empty_results, empty_strip = handlers.show(first, FIRST)
                    results = _html(empty_results, "results")
            strip = _html(empty_strip, "strip")
            curves = _html(charts.sweep(first.pair, []), "sweep")
            with gr.Row(elem_id="choosers"):
                with gr.Column(min_width=300):
                    _html(view.heading("Within a time limit", "As many frames as fit."))
                    budget = gr.Number(4, label="Milliseconds for the network", minimum=0, elem_id="budget")
                    choose = gr.Button("Choose the frames", elem_id="choose")
                    chosen = _html(view.budget(None), "chosen")
                with gr.Column(min_width=300):
                    _html(view.heading("As few as it takes", "More frames only while the network is unsure."))
                    confidence = gr.Slider(0.5, 1, 0.9, step=0.01, label="Sure from", elem_id="confidence")
                    start_cascade = gr.Button("Run a cascade", elem_id="run-cascade")
                    stages = _html(view.cascade([], 0), "cascade")
        with gr.Tab("Live camera"):
            _live(handlers, network, uploaded, first.pair.main, limit)
        with gr.Tab("For programs"):
            code = api.page(answers, compute)

        looking = {"fn": handlers.look, "inputs": [video, start, end, network, uploaded, shown]}
        looking |= {"outputs": [shown, message, start, end], "show_progress_on": message, **compute}
        showing = {
            "fn": handlers.show,
            "inputs": [shown, frames],
            "outputs": [results, strip],
            **compute,
            **quiet,
        }
        sweeping = {"fn": handlers.sweep, "inputs": shown, "outputs": curves, **quiet}
        sweeping |= {"concurrency_id": "sweep", "concurrency_limit": 1}
        # Of the values that a drag passes over, only the last one waits to be answered.
        last = {"trigger_mode": "always_last"}
        touched = [video.change, start.input, end.input, network.change]
        looked = gr.on(touched, **looking, **last, api_visibility="private")
        looked.then(**showing).then(**sweeping, **last)
        gr.on(touched, lambda: view.cascade([], 0), None, stages, queue=False, **quiet)
        frames.change(**showing, **last)
        frames.change(
            None, frames, js="n => document.documentElement.style.setProperty('--frames', n)", **quiet
        )

        fitting = {"fn": handlers.fit, "inputs": [shown, budget], "outputs": [frames, chosen], **compute}
        gr.on([choose.click, budget.submit], **fitting, show_progress_on=chosen, api_visibility="private")
        start_cascade.click(
            handlers.cascade,
            [shown, confidence],
            [frames, stages],
            show_progress_on=stages,
            api_visibility="private",
            **compute,
        )
        accepting = {"inputs": [add, uploaded, network], "outputs": [network, uploaded, message]}
        add.upload(handlers.accept, **accepting, show_progress_on=message, api_visibility="private", **compute)
        page.load(handlers.open, uploaded, [network, message], **quiet)
        page.load(None, None, code, js=api.ADDRESS, **quiet)
    return page.queue(default_concurrency_limit=limit, max_size=200)


def _live(handlers: Handlers, network: gr.Dropdown, uploaded: gr.State, first: Entry, limit: int) -> None:
    window = gr.State()
    empty_answer, empty_strip = handlers.unwatched(first)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            camera = gr.Image(
                label="Camera",
                sources=["webcam"],
                streaming=True,
                webcam_options=gr.WebcamOptions(mirror=False),
                height=320,
                elem_id="camera",
            )
        with gr.Column(scale=3, min_width=340):
            frames = gr.Slider(COUNTS[0], COUNTS[-1], FIRST, step=1, label="Frames", elem_id="live-frames")
            seconds = gr.Slider(1, 8, 2.5, step=0.5, label="Seconds looked back", elem_id="live-seconds")
            answer = _html(empty_answer, "live-answer")
    strip = _html(empty_strip, "live-strip")
    camera.stream(
        handlers.watch,
        [camera, window, seconds, frames, network, uploaded],
        [window, answer, strip],
        stream_every=0.2,
        time_limit=LIVE_SECONDS,
        concurrency_id="live",
        concurrency_limit=2 * limit,
        show_progress="hidden",
        api_visibility="private",
    )


def _html(value: str, name: str | None = None) -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False)
