"""Official annotations to list files: ``python -m trainers.prepare ssv2 --annotations DIR --data-root DIR``

The data set's folder gets ``category.txt`` (a class per line) and ``train.txt`` and ``val.txt`` (``path
num_frames label`` per line). Videos stay where they are, or become folders of JPEG frames with ``--extract``.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import cv2
import tyro
from tqdm import tqdm

from ffn.checkpoint import write_atomically
from ffn.video import VideoError, open_video
from trainers.data.frame_folder import TEMPLATES, open_frames
from trainers.data.listing import SUFFIXES, folders

HEIGHT = 256  # pixels of an extracted frame's short side


class Video(NamedTuple):
    """One video of the official annotations: which list it goes to, its name without suffix, its class."""

    split: str
    name: str
    label: str


def ssv1(annotations: Path) -> Iterator[Video]:
    """``something-something-v1-{train,validation}.csv``: ``id;label``. Videos are folders of frames already."""
    for split, name in (("train", "train"), ("val", "validation")):
        with _open(annotations / f"something-something-v1-{name}.csv") as file:
            for row in csv.reader(file, delimiter=";"):
                if row:
                    yield Video(split, row[0], row[1])


def ssv2(annotations: Path) -> Iterator[Video]:
    """``something-something-v2-{train,validation}.json``; classes are templates without their brackets."""
    for split, name in (("train", "train"), ("val", "validation")):
        with _open(annotations / f"something-something-v2-{name}.json") as file:
            for entry in json.load(file):
                yield Video(split, str(entry["id"]), re.sub(r"[\[\]]", "", entry["template"]))


def kinetics(annotations: Path) -> Iterator[Video]:
    """``train.csv`` and ``val.csv`` (``label,youtube_id,time_start,time_end,split``), also ``validate.csv``."""
    for split, names in (("train", ("train",)), ("val", ("val", "validate"))):
        path = next(
            (p for n in names if (p := annotations / f"{n}.csv").exists()), annotations / f"{names[0]}.csv"
        )
        with _open(path) as file:
            for row in csv.DictReader(file):
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
                yield Video(split, f"{row['youtube_id']}_{start:06d}_{end:06d}", row["label"])


def hmdb51(annotations: Path, fold: int) -> Iterator[Video]:
    """``<class>_test_split<fold>.txt``: ``name.avi 1`` trains, ``2`` validates, ``0`` is not used."""
    paths = sorted(annotations.glob(f"*_test_split{fold}.txt"))
    if not paths:
        raise ValueError(
            f"{annotations} holds no *_test_split{fold}.txt: give the folder of testTrainMulti_7030_splits"
        )
    for path in paths:
        label = path.name.rsplit("_test_split", 1)[0]
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.split():
                name, use = line.rsplit(maxsplit=1)
                if use in ("1", "2"):
                    yield Video("train" if use == "1" else "val", name.rsplit(".", 1)[0], label)


def _open(path: Path):
    if not path.exists():
        raise ValueError(f"there is no {path}: download the official annotations and give their folder")
    return path.open(newline="", encoding="utf-8")


# ---------------------------------------------------------------- files


def find(root: Path) -> dict[str, Path]:
    """Videos and frame folders under ``root`` by name without suffix; a frame folder wins over its video."""
    found = {}
    for folder, folders_in, files in os.walk(root):
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES:
                found.setdefault(Path(name).stem, Path(folder) / name)
        frames = [n for n in folders_in if any((Path(folder) / n / t.format(1)).exists() for t in TEMPLATES)]
        found |= {name: Path(folder) / name for name in frames}
        folders_in[:] = [n for n in folders_in if n not in frames and not n.startswith(".")]
    return found


def extract(video: Path, folder: Path, height: int = HEIGHT) -> str | None:
    """Write the frames of ``video`` as JPEGs into ``folder``, whole or not at all; what went wrong, or None."""
    if folder.exists():
        return None
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for number, frame in enumerate(open_video(video, short_side=height), 1):
            image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
            if not cv2.imwrite(str(partial / TEMPLATES[-1].format(number)), image):
                return f"cannot write to {partial}: is the disk full?"
        partial.rename(folder)
    except (VideoError, OSError, cv2.error) as error:
        return str(error)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return None


def prepare(videos: list[Video], root: Path, workers: int, number: int | str = "") -> list[str]:
    """Write the list files of ``videos``, found under ``root``; a sentence for each that cannot be listed."""
    classes = sorted({video.label for video in videos})
    found, problems = find(root), []
    known = [video for video in videos if video.name in found]
    problems += [f"{video.name} is not under {root}" for video in videos if video.name not in found]
    if not known:
        raise ValueError(f"none of the {len(videos)} annotated videos is under {root}: put them there first")
    lines = {"train": [], "val": []}
    paths = [found[video.name] for video in known]
    for video, path, length in zip(known, paths, _in_parallel(measure, paths, workers, "frames"), strict=True):
        if isinstance(length, str):
            problems.append(length)
        else:
            lines[video.split].append(f"{path.relative_to(root)} {length} {classes.index(video.label)}")
    _write(root / "category.txt", classes)
    for split, own in lines.items():
        _write(root / f"{split}{number}.txt", own)
    return problems


def measure(path: Path) -> int | str:
    """How many frames a video or frame folder has, or what is wrong with it."""
    try:
        return (open_frames(path) if path.is_dir() else open_video(path)).num_frames
    except (VideoError, OSError, cv2.error) as error:
        return str(error)


def extract_all(root: Path, workers: int) -> list[str]:
    """Make a frame folder beside each video under ``root`` (those there are kept); what went wrong."""
    videos = [path for path in find(root).values() if path.is_file()]
    folders_to_be = [path.with_suffix("") for path in videos]
    outcomes = _in_parallel(extract, videos, workers, "extracting", folders_to_be)
    return [problem for problem in outcomes if problem]


def _in_parallel(work: Callable, paths: list[Path], workers: int, title: str, *more: list) -> list:
    with ProcessPoolExecutor(workers, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        return list(tqdm(pool.map(work, paths, *more, chunksize=4), title, len(paths), unit="video"))


def _write(path: Path, lines: list[str]) -> None:
    write_atomically(path, lambda partial: partial.write_text("".join(f"{line}\n" for line in lines), "utf-8"))


# ---------------------------------------------------------------- command line


DATASETS = {"ssv1": ssv1, "ssv2": ssv2, "kinetics": kinetics, "hmdb51": hmdb51}


def main(
    data: Annotated[Literal["ssv1", "ssv2", "kinetics", "hmdb51", "folder"], tyro.conf.Positional],
    data_root: Path,
    annotations: Path | None = None,
    fold: int = 1,
    seed: int = 0,
    extract: bool = False,
    workers: int | None = None,
) -> None:
    """Write the list files that training reads from a data set's official annotations.

    DATA_ROOT holds the videos or frame folders, in any subfolders, and gets the lists.
    Interrupted, it can be started again: frames that were extracted are kept.

    Args:
        data: data set; folder: <class>/<clip> or train/ and val/ with such folders (no annotations needed).
        data_root: folder of the videos or frames.
        annotations: folder of the official annotation files; default: DATA_ROOT.
        fold: which official split (hmdb51); its lists are called train1.txt, val1.txt and so on.
        seed: draws the clips that validate, where a folder has no split of its own.
        extract: decode every video to a folder of JPEG frames first: larger, and faster to train from.
        workers: processes; default: one per core.
    """
    if not data_root.is_dir():
        raise ValueError(f"there is no folder {data_root}: give the one that holds the videos with --data-root")
    workers = workers or os.cpu_count() or 1
    problems = extract_all(data_root, workers) if extract else []
    if data == "folder":
        for split in ("train", "val"):
            listing = folders(data_root, split, fold, seed)
            rows = [f'"{item.path}","{listing.classes[item.label]}"' for item in listing.items]
            _write(data_root / f"{split}.csv", ["path,label", *rows])
        wrote, reader = "train.csv and val.csv", "csv"
    else:
        options = {"fold": fold} if data == "hmdb51" else {}
        number = fold if data == "hmdb51" else ""
        videos = list(DATASETS[data](annotations or data_root, **options))
        problems += prepare(videos, data_root, workers, number)
        wrote, reader = f"category.txt, train{number}.txt and val{number}.txt", data
    for problem in problems:
        print(f"left out: {problem}")
    print(f"{wrote} are in {data_root}; {len(problems)} videos left out. Train with: --data {reader}")


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m trainers.prepare")
    except (ValueError, OSError) as error:
        print(f"trainers.prepare: {error}", file=sys.stderr)
        sys.exit(2)
