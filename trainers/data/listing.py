"""Which clips a data set on disk has, and their classes: from list files, a CSV, or folders.

A reader takes the data set's folder and a split, and returns a :class:`Listing`; :class:`Videos` makes a source
of it. A new layout is a reader here and a line in ``trainers.data.SOURCES``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffn.video import VideoFile, open_video
from trainers.data.frame_folder import FrameFolder, open_frames

SPLITS = {"train": ("train", "training"), "val": ("val", "validate", "validation", "valid", "test")}
SUFFIXES = {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".ts"}
HELD_OUT = 0.2  # share of each class that validates where a folder has no split of its own
REPORT = "check.json"  # what trainers.check found, in the data set's folder


@dataclass(frozen=True)
class Item:
    """One clip: its path relative to the data set's folder, its class, and its frames if the list says."""

    path: str
    label: int
    num_frames: int | None = None


@dataclass(frozen=True)
class Listing:
    items: Sequence[Item]
    classes: tuple[str, ...]


class Videos:
    """A source (see :mod:`trainers.data`) of video files and frame folders.

    ``skipped`` names the clips that trainers.check found unreadable and that are left out.

    Args:
        root: the data set's folder.
        listing: its clips.
        size: side of the network's clips in pixels; videos are decoded to at most twice that.
        clips: at most so many of them, spread over the list.
        max_bad: the share of clips that may be skipped.

    Raises:
        ValueError: if there are no clips, or more than ``max_bad`` of them are unreadable.
    """

    def __init__(self, root: Path, listing: Listing, size: int, clips: int | None = None, max_bad: float = 1.0):
        bad = read_report(root)
        self.root, self.classes, self.short_side = root, listing.classes, 2 * size
        self.items = [item for item in listing.items if item.path not in bad]
        self.skipped = [item.path for item in listing.items if item.path in bad]
        if not listing.items:
            raise ValueError(f"{root} lists no clips: see docs/train-your-own.md for what it should hold")
        share = len(self.skipped) / len(listing.items)
        if share > max_bad or not self.items:
            raise ValueError(
                f"{len(self.skipped)} of {len(listing.items)} clips of {root} are unreadable ({share:.0%}, "
                f"more than --max-bad {max_bad:g}), {self.skipped[0]} for one: see {root / REPORT}"
            )
        if clips and clips < len(self.items):
            self.items = [self.items[i * len(self.items) // clips] for i in range(clips)]

    def __len__(self) -> int:
        return len(self.items)

    def label(self, i: int) -> int:
        return self.items[i].label

    def name(self, i: int) -> str:
        return self.items[i].path

    def open(self, i: int) -> VideoFile | FrameFolder:
        """Raises VideoError if the clip cannot be used."""
        item = self.items[i]
        path = self.root / item.path
        return (
            open_video(path, short_side=self.short_side)
            if path.is_file()
            else open_frames(path, item.num_frames)
        )


def read_report(root: Path) -> dict[str, str]:
    """The unreadable clips of a data set and why, as trainers.check found; empty if it was not run."""
    path = root / REPORT
    return json.loads(path.read_text())["unreadable"] if path.exists() else {}


# ---------------------------------------------------------------- readers


def lists(root: Path, split: str, fold: int, seed: int) -> Listing:
    """``train.txt`` and ``val.txt`` with a line ``path num_frames label`` per clip, ``category.txt`` with a
    class per line; with several official folds ``train1.txt``, ``val1.txt`` and so on."""
    category = root / "category.txt"
    if not category.exists():
        raise ValueError(f"there is no {category}: run python -m trainers.prepare first")
    classes = tuple(line.strip() for line in category.read_text(encoding="utf-8").splitlines() if line.strip())
    path = _first(root / f"{name}{number}.txt" for number in ("", fold) for name in SPLITS[split])
    return Listing([_item(path, *line, len(classes)) for line in _lines(path)], classes)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list that hold something, numbered from 1."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _item(path: Path, number: int, line: str, classes: int) -> Item:
    try:
        clip, frames, label = line.rsplit(maxsplit=2)  # from the right: a path may hold spaces
        item = Item(clip, int(label), int(frames))
    except ValueError:
        raise ValueError(f"{path}, line {number}: expected 'path num_frames label', found {line!r}") from None
    if not 0 <= item.label < classes:
        raise ValueError(f"{path}, line {number}: label {item.label} is not one of the {classes} classes")
    return Item(clip, item.label, item.num_frames or None)  # 0: count them


def table(root: Path, split: str, fold: int, seed: int) -> Listing:
    """``train.csv`` and ``val.csv`` with the columns ``path,label``; a label is a class name."""
    classes = tuple(sorted({label for _, _, label in _rows(_first(_csv_files(root, "train")))}))
    path = _first(_csv_files(root, split))
    items = []
    for number, clip, label in _rows(path):
        if label not in classes:
            raise ValueError(f"{path}, line {number}: class {label!r} is not among those of the training clips")
        items.append(Item(clip, classes.index(label)))
    return Listing(items, classes)


def _csv_files(root: Path, split: str) -> list[Path]:
    return [root / f"{name}.csv" for name in SPLITS[split]]


def _rows(path: Path) -> Iterator[tuple[int, str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = {"path", "label"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path} needs a first line with the columns path and label")
        for row in reader:
            if not row["path"] or not row["label"]:
                raise ValueError(f"{path}, line {reader.line_num}: path or label is missing")
            yield reader.line_num, row["path"], row["label"]


def folders(root: Path, split: str, fold: int, seed: int) -> Listing:
    """``train/<class>/*.mp4`` and ``val/<class>/*.mp4``, or ``<class>/*.mp4``, a fifth of which validates.

    Where ``val`` holds clips without class folders, ``val.txt`` beside it has a line ``number label path`` for
    each, labels counted over the sorted classes of ``train``.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: give the one that holds the clips with --data-root")
    train = next((root / name for name in SPLITS["train"] if (root / name).is_dir()), None)
    if train is None:
        classes = _classes(root)
        return Listing(_held_out(root, classes, split, seed), classes)
    classes = _classes(train)
    folder = train if split == "train" else _first(root / name for name in SPLITS["val"])
    if list_file := next(
        (p for p in [folder.with_suffix(".txt")] if p.exists() and not _subfolders(folder)), None
    ):
        return Listing(
            [_numbered(list_file, *line, folder.name, classes) for line in _lines(list_file)], classes
        )
    unknown = set(_subfolders(folder)) - set(classes)
    if unknown:
        raise ValueError(f"{folder} has a class that {train} has not: {', '.join(sorted(unknown))}")
    return Listing(list(_in_classes(folder, classes, f"{folder.name}/")), classes)


def _numbered(path: Path, number: int, line: str, folder: str, classes: tuple[str, ...]) -> Item:
    found = re.fullmatch(r"\d+\s+(\d+)\s+(.+)", line)
    if not found:
        raise ValueError(f"{path}, line {number}: expected 'number label path', found {line!r}")
    label = int(found[1])
    if label >= len(classes):
        raise ValueError(f"{path}, line {number}: label {label} is not one of the {len(classes)} classes")
    return Item(f"{folder}/{found[2]}", label)


def _held_out(root: Path, classes: tuple[str, ...], split: str, seed: int) -> list[Item]:
    """A share of each class, drawn by ``seed``, validates; the rest trains."""
    items = []
    for label in range(len(classes)):
        own = [item for item in _in_classes(root, classes, "") if item.label == label]
        order = np.random.default_rng((seed, label)).permutation(len(own))
        held = set(order[: max(1, round(HELD_OUT * len(own)))].tolist()) if len(own) > 1 else set()
        items += [item for i, item in enumerate(own) if (i in held) == (split == "val")]
    return items


def _in_classes(folder: Path, classes: tuple[str, ...], prefix: str) -> Iterator[Item]:
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("*")):
            video = path.suffix.lower() in SUFFIXES and not path.with_suffix("").is_dir()  # frames win
            if not path.name.startswith(".") and (video or path.is_dir()):
                yield Item(f"{prefix}{name}/{path.name}", label)


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(_subfolders(folder))
    if len(classes) < 2:
        raise ValueError(
            f"{folder} needs a folder of clips for each class, at least two, and has {len(classes)}: "
            "arrange the clips as <class>/<clip>.mp4"
        )
    return classes


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _first(paths) -> Path:
    paths = list(paths)
    for path in paths:
        if path.exists():
            return path
    raise ValueError(f"there is no {paths[0]}")


Reader = Callable[[Path, str, int, int], Listing]
READERS: dict[str, Reader] = {
    "folder": folders,
    "csv": table,
    "ssv1": lists,
    "ssv2": lists,
    "kinetics": lists,
    "hmdb51": lists,
}
