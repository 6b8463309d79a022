"""The demo: upload a clip, drag the slider, see what the network says at every frame count.

    python -m app.demo

Hugging Face Spaces runs it as ``python app/demo.py`` (``app_file: app/demo.py``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

# Run as a file, Python looks for modules beside it, not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gradio as gr
import tyro

import ffn
from app import view
from app.clips import Clips
from ffn.predict import Prediction, Predictor
from ffn.video import Limits, LoadedClip, VideoError, open_video, preload

COUNTS = range(1, 33)
FIRST = 8  # where the slider stands at first
ASSETS = Path(__file__).resolve().parents[1] / "assets"
CHECKPOINTS = Path(os.environ.get("FFN_CHECKPOINTS", ASSETS))
THUMBNAIL = 160  # pixels of a kept frame's short side, if the networks need fewer


class Answers:
    """What the page asks for: clips decoded once, and both networks' answers at any frame count."""

    def __init__(self, flexible: Predictor, plain: Predictor):
        rule, other = flexible.preprocess.sampling, plain.preprocess.sampling
        if rule != other:
            raise ValueError(f"both networks must sample frames alike, not by {rule!r} and {other!r}")
        self.flexible, self.plain = flexible, plain
        self.trained_at = "/".join(map(str, plain.frames))
        limits = limits_from_environment()
        short_side = max(THUMBNAIL, flexible.preprocess.resize, plain.preprocess.resize)
        self.clips = Clips(lambda path: preload(open_video(path, limits), COUNTS, rule, short_side))

    def load(self, path: str | None) -> tuple[str | None, str]:
        """Decode the clip; its key, and a sentence about it or about what is wrong with it."""
        if path is None:
            return None, view.message("Upload a clip of a moving thing, or take an example.")
        try:
            key = self.clips.add(path)
            return key, view.message(_describe(self.clips.get(key, path)))
        except VideoError as error:
            return None, view.message(f"{error}.", error=True)

    def show(self, key: str | None, path: str | None, frames: int) -> tuple[str, str]:
        """The results and the strip of frames of the clip, empty without one."""
        clip = self.clips.get(key, path) if key and path else None
        flexible, plain = self._predict(clip, frames) if clip else (None, None)
        active = self.flexible.frequency_for(frames)
        decode_ms = clip.decode_ms if clip else None
        return (
            view.results(flexible, plain, decode_ms, self.flexible.frames, self.trained_at, active),
            view.strip(clip, flexible, self.flexible.preprocess, COUNTS[-1]),
        )

    def predict(self, video: str, frames: float) -> dict:
        """What both networks say of a video file from 1 to 32 of its frames, and how long each step took."""
        if frames not in COUNTS:
            sentence = f"frames must be a whole number from {COUNTS[0]} to {COUNTS[-1]}, not {frames}"
            raise gr.Error(sentence, print_exception=False)
        try:
            clip = self.clips.get(self.clips.add(video), video)
        except VideoError as error:
            raise gr.Error(f"{error}.", print_exception=False) from error
        return _as_json(clip, *self._predict(clip, int(frames)))

    def _predict(self, clip: LoadedClip, frames: int) -> tuple[Prediction, Prediction]:
        return self.flexible(clip, frames, view.TOP), self.plain(clip, frames, view.TOP)


def build(flexible: Predictor, plain: Predictor) -> gr.Blocks:
    """The page, with ``flexible``'s answers on the left and ``plain``'s on the right."""
    answers = Answers(flexible, plain)
    empty_results, empty_strip = answers.show(None, None, FIRST)
    examples = [[str(path)] for path in sorted((ASSETS / "examples").glob("*.webm"))]

    with gr.Blocks(title="Frame Flexible Network", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        _html(view.HEADER.format(frames=answers.trained_at))
        key = gr.State()
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                video = gr.Video(
                    label="Clip", sources=["upload"], height=260, loop=True, autoplay=True, elem_id="clip"
                )
                message = _html(answers.load(None)[1], "message")
                if examples:
                    gr.Examples(examples, video, label="Examples", elem_id="examples", api_visibility="private")
            with gr.Column(scale=3, min_width=340):
                frames = gr.Slider(COUNTS[0], COUNTS[-1], FIRST, step=1, label="Frames", elem_id="frames")
                results = _html(empty_results, "results")
        strip = _html(empty_strip, "strip")

        load = {"fn": answers.load, "inputs": video, "outputs": [key, message], "show_progress_on": message}
        show = {"fn": answers.show, "inputs": [key, video, frames], "outputs": [results, strip]}
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        # Of the values that a drag passes over, only the last one waits to be answered.
        video.change(**load, api_visibility="private", trigger_mode="always_last").then(**show, **quiet)
        frames.change(**show, **quiet, trigger_mode="always_last")
        _endpoint(answers.predict)
    return page.queue(default_concurrency_limit=2)


def _html(value: str, name: str | None = None) -> gr.HTML:
    return gr.HTML(value, elem_id=name, apply_default_css=False)


def _endpoint(predict: Callable[[str, float], dict]) -> None:
    """Make ``predict`` callable by programs.

    Its components never show; they are here because, unlike ``gr.api``, they refuse the path of a file that
    the caller did not upload.
    """
    video = gr.File(label="video", visible=False)
    frames = gr.Number(FIRST, label="frames", visible=False)
    video.upload(predict, [video, frames], gr.JSON(label="answer", visible=False), api_name="predict")


def limits_from_environment() -> Limits:
    """What is accepted of uploads; ``aspect`` bounds what a decoded clip takes in memory."""
    return Limits(
        megabytes=_number("FFN_MAX_MB", 50),
        seconds=_number("FFN_MAX_SECONDS", 60),
        pixels=int(_number("FFN_MAX_PIXELS", 3840 * 2160)),
        aspect=5,
    )


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not value > 0:
        raise ValueError(f"the environment variable {variable} must be a number above 0, not {text!r}")
    return value


def _describe(clip: LoadedClip) -> str:
    frames = "1 frame" if clip.num_frames == 1 else f"{clip.num_frames} frames"
    return f"{frames} in {clip.num_frames / clip.fps:.1f} s, decoded once; the slider picks among them."


def _as_json(clip: LoadedClip, flexible: Prediction, plain: Prediction) -> dict:
    def top(prediction: Prediction) -> list[dict]:
        return [{"class": name, "probability": round(p, 4)} for name, p in prediction.top]

    return {
        "frames": flexible.frames,
        "sub_network": flexible.frequency,
        "indices": flexible.indices,
        "times": [round(index / clip.fps, 3) for index in flexible.indices],
        "flexible": top(flexible),
        "plain": top(plain),
        "latency_ms": {
            "decoding": round(clip.decode_ms, 2),
            "preprocessing": round(flexible.preprocess_ms, 2),
            "network": round(flexible.network_ms, 2),
        },
    }


def _load(path: Path, option: str) -> Predictor:
    try:
        return Predictor(ffn.load(path))
    except ffn.CheckpointError as error:
        raise ffn.CheckpointError(
            f"{error}; give another file with --{option}, or set FFN_CHECKPOINTS to the folder that holds "
            f"{path.name}"
        ) from error


def main(
    host: str = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
    port: int | None = None,
    flexible: Path = CHECKPOINTS / "tsm_tiny-ffn-motion.safetensors",
    plain: Path = CHECKPOINTS / "tsm_tiny-plain16-motion.safetensors",
) -> None:
    """Serve the demo page until interrupted.

    Args:
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on; without it PORT or GRADIO_SERVER_PORT is used, or the first free one from 7860.
        flexible: checkpoint of the frame-flexible network.
        plain: checkpoint of the plain network shown beside it.
    """
    if port is None and os.environ.get("PORT"):
        port = int(_number("PORT", 7860))
    page = build(_load(flexible, "flexible"), _load(plain, "plain"))
    system = ["system-ui", "sans-serif"]  # theme fonts would come from the network
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        theme=gr.themes.Default(primary_hue="blue", font=system, font_mono=["ui-monospace", "monospace"]),
        css=view.CSS,
        footer_links=["api"],
        max_file_size=int(4 * limits_from_environment().megabytes * 2**20),  # below it, our own sentence
    )


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m app.demo")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
