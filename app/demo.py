"""The demo: upload a clip, drag the slider, see what the network says at every frame count.

    python -m app.demo

Hugging Face Spaces runs it as ``python app/demo.py`` (``app_file: app/demo.py``). Processes that decode
clips import this file again, so it imports next to nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Run as a file, Python looks for modules beside it, not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(
    host: str = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
    port: int | None = None,
) -> None:
    """Serve the demo page until interrupted.

    Args:
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on; without it PORT or GRADIO_SERVER_PORT is used, or the first free one from 7860.
    """
    from app import serve, settings

    if port is None and os.environ.get("PORT"):
        port = int(settings.number("PORT"))
    serve.serve(settings.Settings.from_environment(), host, port)


if __name__ == "__main__":
    import tyro

    try:
        tyro.cli(main, prog="python -m app.demo")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
