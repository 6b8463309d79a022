"""The data sets by name. A new one is a line in ``LAYOUTS``, or a file here with a source and in ``SOURCES``.

A *source* is one split of a data set: ``classes`` (names), ``len()``, ``label(i)``, ``name(i)`` (for messages)
and ``open(i)``, which returns a clip with ``num_frames``, ``fps`` and ``read(indices)`` (see
:mod:`ffn.video`). ``skipped`` names the clips that :mod:`trainers.check` found bad, and ``gradual``, where
there is one, says that the first epoch keeps the order.
"""

from __future__ import annotations

import zlib
from functools import partial
from pathlib import Path

import cv2

from trainers.data.cached import Cached
from trainers.data.files import DataError, Files
from trainers.data.footage import Footage
from trainers.data.layouts import LAYOUTS, Layout, read_clips
from trainers.data.motion import Motion

# Clips are decoded by many processes, whose threads would fight for the cores. To be said before they fork:
# in a process forked from one whose OpenCV has threads, this call waits for them for ever.
cv2.setNumThreads(1)


def motion(split: str, *, size: int, clips: int | None = None, cache: Path | None = None, **_):
    source = Motion(split, clips, size)
    if cache is None:
        return source
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("motion*.py")))
    return Cached(source, cache, f"motion-{zlib.crc32(code):08x}-{split}")  # a new renderer, a new file


def existing(root: Path | None) -> Path:
    if root is None:
        raise DataError("this data set lies in a folder of yours: name it with --data-root DIR")
    if not root.exists():
        raise DataError(f"there is no folder {root}: --data-root names the one that holds the data set")
    return root


def files(
    layout: Layout,
    split: str,
    *,
    root: Path | None,
    clips: int | None = None,
    cache: Path | None = None,
    seed: int = 0,
    fold: int = 1,
    max_bad: float = 0.05,
    use_report: bool = True,
    **_,
):
    root = existing(root)
    if cache is not None:
        raise DataError("a cache keeps clips that are rendered (motion); these are read from their files")
    classes, entries = read_clips(layout, root, split, fold=fold, seed=seed)
    source = Files(classes, entries, layout.templates)
    if use_report:
        source.skip_bad(root if root.is_dir() else root.parent, split, max_bad)
    source.take(clips, seed)
    return source


def footage(split: str, *, root: Path | None, size: int, clips: int | None = None, **_):
    if split == "train":
        raise DataError("footage is there to evaluate on, not to train on: train on motion")
    return Footage(existing(root), clips, size)


SOURCES = {"motion": motion, "footage": footage} | {
    name: partial(files, layout) for name, layout in LAYOUTS.items()
}


def create_source(name: str, split: str, **options):
    """The ``train`` or ``val`` split of a data set.

    Options: ``size``, side of the network's clips in pixels; ``root``, the data set's folder; ``clips``, at
    most so many; ``cache``, a folder for rendered clips; ``seed`` of the split where none is given, and of the
    ``clips`` taken; ``fold`` 1, 2 or 3 of HMDB51; ``max_bad``, the share of clips found bad by
    :mod:`trainers.check` up to which they are just skipped; ``use_report=False`` looks at no such report.

    Raises:
        ValueError: if there is no such data set or it cannot be used, in one sentence that names the fix.
    """
    if name not in SOURCES:
        raise ValueError(f"there is no data set named {name!r}; choose one of {', '.join(SOURCES)}")
    if split not in ("train", "val"):
        raise ValueError(f"split must be train or val, not {split!r}")
    return SOURCES[name](split, **options)
