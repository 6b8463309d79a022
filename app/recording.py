"""A video as it was uploaded or recorded."""

from __future__ import annotations

import gradio as gr
from gradio.data_classes import FileData


class Recording(gr.Video):
    """Without sound, and untouched.

    Gradio's own lets FFmpeg take the sound off, in this process and whatever the file is.
    """

    is_template = True  # the browser's part is that of gr.Video

    def preprocess(self, payload: FileData | None) -> str | None:
        return payload and payload.path
