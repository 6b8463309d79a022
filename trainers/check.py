"""Decode every clip of a data set once: ``python -m trainers.check folder --data-root DIR``

Writes DIR/check.json, which training reads: unreadable clips are left out, and named.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import cv2
import tyro
from tqdm import tqdm

from ffn.checkpoint import write_atomically
from ffn.video import VideoError
from trainers.data.listing import READERS, REPORT, Videos


def examine(source: Videos, i: int) -> tuple[str, int, str | None]:
    """Path of clip ``i``, its frames, and what is wrong with it, or None."""
    try:
        clip = source.open(i)
        for _ in clip:
            pass
        return source.name(i), clip.num_frames, None
    except (VideoError, OSError, cv2.error) as error:
        return source.name(i), 0, str(error)


def check(name: str, root: Path, frames: int, fold: int, seed: int, workers: int) -> dict:
    """The report on both splits: ``unreadable`` clips with reasons, ``short`` ones (below ``frames``) with
    their lengths, and how many ``clips`` there are."""
    report = {"data": name, "clips": 0, "unreadable": {}, "short": {}}
    (root / REPORT).unlink(missing_ok=True)  # or those that it names would not be looked at again
    for split in ("train", "val"):
        source = Videos(root, READERS[name](root, split, fold, seed), size=16)
        report["clips"] += len(source)
        with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            found = pool.map(examine, *_all(source), chunksize=8)
            for path, length, reason in tqdm(found, split, len(source), unit="clip"):
                if reason:
                    report["unreadable"][path] = reason
                elif length < frames:
                    report["short"][path] = length
    write_atomically(root / REPORT, lambda partial: partial.write_text(json.dumps(report, indent=2)))
    return report


def _all(source: Videos) -> tuple[list[Videos], range]:
    return [source] * len(source), range(len(source))


def main(
    data: Annotated[str, tyro.conf.Positional],
    data_root: Path,
    frames: int = 16,
    fold: int = 1,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Decode every clip of a data set and write DATA_ROOT/check.json: what is unreadable, empty or short.

    Args:
        data: data set: folder, csv, ssv1, ssv2, kinetics or hmdb51.
        data_root: its folder.
        frames: clips with fewer frames are reported as short (they can be trained on: frames repeat).
        fold: which of the data set's official splits.
        seed: that training will use, where it draws the validation clips.
        workers: processes; default: one per core.
    """
    if data not in READERS:
        raise ValueError(f"there is no data set on disk called {data!r}; choose one of {', '.join(READERS)}")
    report = check(data, data_root, frames, fold, seed, workers or os.cpu_count() or 1)
    for path, reason in report["unreadable"].items():
        print(f"unreadable: {path}: {reason}")
    for path, length in report["short"].items():
        print(f"short: {path} has {length} frames, fewer than {frames}")
    print(
        f"{report['clips']} clips: {len(report['unreadable'])} unreadable (training leaves them out), "
        f"{len(report['short'])} short; the report is {data_root / REPORT}"
    )


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m trainers.check")
    except (ValueError, OSError) as error:
        print(f"trainers.check: {error}", file=sys.stderr)
        sys.exit(2)
