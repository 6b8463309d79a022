"""The data sets by name. A new one is a reader in :mod:`trainers.data.listing` (or a file here with a source
class), and a line in ``SOURCES``.

A *source* is one split of a data set: ``classes`` (names), ``len()``, ``label(i)``, ``name(i)`` for messages
and ``open(i)``, which returns a clip with ``num_frames``, ``fps`` and ``read(indices)`` (:mod:`ffn.video`).
"""

from __future__ import annotations

import zlib
from pathlib import Path

from trainers.data.cached import Cached
from trainers.data.listing import READERS, Videos
from trainers.data.motion import Motion


def create_source(
    name: str,
    split: str,
    *,
    size: int,
    root: Path | None = None,
    clips: int | None = None,
    cache: Path | None = None,
    seed: int = 0,
    fold: int = 1,
    max_bad: float = 1.0,
):
    """The ``train`` or ``val`` split of a data set.

    Args:
        size: side of the network's clips in pixels.
        root: the data set's folder.
        clips: at most so many clips; Motion renders as many as are asked for.
        cache: folder that keeps rendered clips.
        seed: draws the clips that validate where a folder has no split of its own.
        fold: which of several official splits.
        max_bad: share of clips that trainers.check may have found unreadable.

    Raises:
        ValueError: if no data set has that name, or its folder does not hold what it should.
    """
    if name not in SOURCES:
        raise ValueError(f"there is no data set named {name!r}; choose one of {', '.join(SOURCES)}")
    if name == "motion":
        return _motion(split, size, clips, cache)
    if root is None:
        raise ValueError(f"data {name} needs the folder that it is in: add --data-root DIR")
    return Videos(root, READERS[name](root, split, fold, seed), size, clips, max_bad)


def _motion(split: str, size: int, clips: int | None, cache: Path | None):
    source = Motion(split, clips, size)
    if cache is None:
        return source
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("motion*.py")))
    return Cached(source, cache, f"motion-{zlib.crc32(code):08x}-{split}")  # a new renderer, a new file


SOURCES = ("motion", *READERS)
