"""Decode every clip of a data set once: ``python -m trainers.check folder --data-root DIR``

Writes DIR/check.json, which training reads: it leaves out the clips that are unreadable, empty or too short.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import cv2
import tyro
from tqdm import tqdm

from ffn.checkpoint import write_atomically
from ffn.video import VideoError, VideoFile
from trainers.data import create_source
from trainers.data.files import REPORT, DataError, Files
from trainers.data.layouts import LAYOUTS

TINY = 16  # pixels: frames are decoded, not kept


def examine(source: Files, min_frames: int, i: int) -> tuple[str, str | None, list | None]:
    """Name of clip ``i``, what is wrong with it if anything, and a video's (frames, fps, width, height)."""
    name = source.name(i)
    try:
        clip = source.open(i)
        for _ in clip.frames(TINY):
            pass
    except (VideoError, OSError, cv2.error) as error:
        return name, str(error), None
    if clip.num_frames < min_frames:
        return name, f"{clip.num_frames} frames are fewer than {min_frames}", None
    video = [clip.num_frames, clip.fps, clip.width, clip.height] if isinstance(clip, VideoFile) else None
    return name, None, video


def check(data: str, root: Path, *, min_frames: int, fold: int, workers: int, out: Path | None = None) -> dict:
    """Examine both splits of a data set and write the report to ``out``, by default where training reads it.

    The report holds ``clips``, how many there are, ``bad``, name to reason, and ``videos``, name to (frames,
    fps, width, height).

    Raises:
        ValueError: if the data set as a whole cannot be used.
    """
    report = {"data": data, "clips": 0, "bad": {}, "videos": {}}
    for split in ("train", "val"):
        source = create_source(data, split, root=root, size=TINY, fold=fold, use_report=False)
        report["clips"] += len(source)
        examined = in_parallel(partial(examine, source, min_frames), range(len(source)), workers, split)
        for name, reason, video in examined:
            if reason:
                report["bad"][name] = reason
            elif video:
                report["videos"][name] = video
    folder = root if root.is_dir() else root.parent
    text = json.dumps(report, indent=1)
    write_atomically(out or folder / REPORT, lambda part: part.write_text(text, encoding="utf-8"))
    return report


def in_parallel(function: Callable, items: Iterable, workers: int | None, title: str) -> Iterator:
    """``function`` of each item, in order, by processes of one thread each, under a progress bar."""
    items, workers = list(items), workers or os.cpu_count() or 1
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield from tqdm(pool.map(function, items, chunksize=8), title, len(items), unit="clip")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def main(
    data: Annotated[str, tyro.conf.Positional],
    data_root: Path,
    min_frames: int = 2,
    fold: int = 1,
    workers: int | None = None,
    out: Path | None = None,
) -> None:
    """Decode every clip of a data set once and report those that cannot be used.

    Args:
        data: folder, csv, ssv1, ssv2, kinetics or hmdb51.
        data_root: the data set's folder.
        min_frames: shorter clips are too short.
        fold: which of the official splits of HMDB51.
        workers: processes; default: one per core.
        out: the report; default: check.json in the data set's folder, where training reads it.
    """
    if data not in LAYOUTS:
        raise DataError(f"there is nothing to check in {data!r}; choose one of {', '.join(LAYOUTS)}")
    report = check(data, data_root, min_frames=min_frames, fold=fold, workers=workers, out=out)
    for name, reason in report["bad"].items():
        print(f"bad: {name}: {reason}")
    print(f"{len(report['bad'])} of {report['clips']} clips are bad; training leaves them out")


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m trainers.check")
    except (ValueError, OSError) as error:
        print(f"trainers.check: {error}", file=sys.stderr)
        sys.exit(2)
