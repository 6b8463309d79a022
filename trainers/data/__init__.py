"""The data sets by name. A new one is a file here with a source class, and a line in ``SOURCES``.

A *source* is one split of a data set: ``classes`` (names), ``len()``, ``label(i)`` and ``open(i)``, which
returns a clip with ``num_frames``, ``fps`` and ``read(indices)`` (see :mod:`ffn.video`).
"""

from __future__ import annotations

import zlib
from pathlib import Path

from trainers.data.cached import Cached
from trainers.data.motion import Motion


def motion(split: str, *, size: int, clips: int | None = None, cache: Path | None = None, **_):
    source = Motion(split, clips, size)
    if cache is None:
        return source
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("motion*.py")))
    return Cached(source, cache, f"motion-{zlib.crc32(code):08x}-{split}")  # a new renderer, a new file


SOURCES = {"motion": motion}


def create_source(name: str, split: str, **options):
    """The ``train`` or ``val`` split of a data set; ``size`` is the side of the network's clips in pixels.

    Raises:
        ValueError: if no data set has that name.
    """
    if name not in SOURCES:
        raise ValueError(f"there is no data set named {name!r}; choose one of {', '.join(SOURCES)}")
    return SOURCES[name](split, **options)
