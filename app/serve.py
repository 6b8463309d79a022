"""Start the demo: what is done once, before the first visitor."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import PIL.Image

from app import child, gpu, page  # noqa: F401  gpu first: ZeroGPU wants to be there before PyTorch is used
from app.answers import Answers
from app.settings import Settings

HERE = Path(__file__).parent
SESSIONS = 500  # visitors that are remembered


def serve(settings: Settings, host: str, port: int | None) -> None:
    """Serve the page until interrupted.

    Raises:
        CheckpointError: if there is no network to show.
        OSError: if the port is taken.
    """
    child.prepare()
    PIL.Image.MAX_IMAGE_PIXELS = int(settings.max_pixels)  # of a camera's picture
    answers = Answers(settings)
    blocks = page.build(answers)
    answers.networks.load(answers.networks.first())
    system = ["system-ui", "sans-serif"]  # theme fonts would come from the network
    megabytes = 1.2 * max(settings.max_mb, settings.max_checkpoint_mb)  # below it, our own sentence
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        theme=gr.themes.Default(primary_hue="blue", font=system, font_mono=["ui-monospace", "monospace"]),
        css_paths=HERE / "style.css",
        js=(HERE / "page.js").read_text(),
        footer_links=["api"],
        state_session_capacity=SESSIONS,
        max_file_size=int(megabytes * 2**20),
    )
