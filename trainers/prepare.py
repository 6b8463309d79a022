"""From official annotations to list files: ``python -m trainers.prepare ssv2 --data-root DIR``

Writes ``category.txt`` and a list of lines ``path num_frames label`` per split into DIR, and, with
``--extract``, every video's frames into DIR/frames.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import tyro

from ffn.checkpoint import write_atomically
from ffn.video import VIDEO_SUFFIXES, VideoError, open_video
from trainers.check import in_parallel
from trainers.data.files import DataError
from trainers.data.folder import FRAMES, read_folder
from trainers.data.frame_folder import open_frames
from trainers.data.layouts import CLASS_FILE, LAYOUTS, find_list, read_categories


class Clip(NamedTuple):
    """A clip as annotated: where it may lie, without suffix and relative to a folder, and its class."""

    names: tuple[str, ...]
    label: str


Splits = dict[str, list[Clip]]  # by the stem of the list: train, val, train1 ...


# ---------------------------------------------------------------- official annotations


def ssv1(folder: Path) -> tuple[list[str], Splits]:
    """something-something-v1-{labels,train,validation}.csv: a class per line, numbered in alphabetical order
    as for the released checkpoints; ``id;class`` per line."""
    name = "something-something-v1-{}.csv".format
    classes = sorted(line.strip() for line in _text(folder, name("labels")).splitlines() if line.strip())
    splits = {
        split: [
            Clip((i,), label) for i, label in csv.reader(_text(folder, name(file)).splitlines(), delimiter=";")
        ]
        for split, file in (("train", "train"), ("val", "validation"))
    }
    return classes, splits


def ssv2(folder: Path) -> tuple[list[str], Splits]:
    """something-something-v2-{labels,train,validation}.json; a clip's class is its template less brackets."""
    name = "something-something-v2-{}.json".format
    numbers = json.loads(_text(folder, name("labels")))
    splits = {
        split: [
            Clip((item["id"],), item["template"].replace("[", "").replace("]", ""))
            for item in json.loads(_text(folder, name(file)))
        ]
        for split, file in (("train", "train"), ("val", "validation"))
    }
    return sorted(numbers, key=lambda label: int(numbers[label])), splits


def kinetics(folder: Path) -> tuple[list[str], Splits]:
    """{train,val}.csv with the columns label,youtube_id,time_start,time_end,split."""
    splits = {}
    for split, file in (("train", "train.csv"), ("val", "val.csv")):
        splits[split] = []
        for row in csv.DictReader(_text(folder, file).splitlines()):
            stem = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
            homes = ("", f"{row['label']}/", f"{row['label'].replace(' ', '_')}/")
            names = [f"{part}{home}{stem}" for part in ("", f"{split}/") for home in homes]
            splits[split].append(Clip(tuple(names), row["label"]))
    return sorted({clip.label for clip in splits["train"]}), splits


def hmdb51(folder: Path) -> tuple[list[str], Splits]:
    """testTrainMulti_7030_splits/<class>_test_split{1,2,3}.txt: ``file.avi 1`` trains, 2 tests, 0 is unused."""
    texts = _find(folder, "testTrainMulti_7030_splits")
    ending = "_test_split1.txt"
    classes = sorted(path.name.removesuffix(ending) for path in texts.glob(f"*{ending}"))
    splits: Splits = {f"{split}{fold}": [] for fold in (1, 2, 3) for split in ("train", "val")}
    for fold in (1, 2, 3):
        for label in classes:
            for line in _text(texts, f"{label}_test_split{fold}.txt").splitlines():
                file, part = line.rsplit(None, 1) if line.strip() else ("", "0")
                if part in ("1", "2"):
                    stem = Path(file).stem
                    clip = Clip((f"{label}/{stem}", stem), label)
                    splits[f"{'train' if part == '1' else 'val'}{fold}"].append(clip)
    return classes, splits


def folder(root: Path) -> tuple[list[str], Splits]:
    """train/<class>/*.mp4 and val/<class>/*.mp4, or one folder of classes, a fifth of which becomes val."""
    splits: Splits = {}
    for split in ("train", "val"):
        if path := find_list(LAYOUTS["folder"], root, split):
            raise DataError(
                f"{path} is there already and counts more than the folders: remove it to make it anew"
            )
        classes, entries = read_folder(root, split, 0, read_categories(root))
        splits[split] = [Clip((entry.name,), classes[entry.label]) for entry in entries]
    return list(classes), splits


READERS: dict[str, Callable[[Path], tuple[list[str], Splits]]] = {
    "ssv1": ssv1,
    "ssv2": ssv2,
    "kinetics": kinetics,
    "hmdb51": hmdb51,
    "folder": folder,
}


def _find(folder: Path, name: str) -> Path:
    candidates = [folder / name, folder / "annotations" / name, folder / "labels" / name]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        raise DataError(f"{folder} holds no {name}: download the official annotations into it")
    return path


def _text(folder: Path, name: str) -> str:
    return _find(folder, name).read_text(encoding="utf-8-sig")


# ---------------------------------------------------------------- clips on disk


@dataclass(frozen=True)
class Storage:
    """Where a data set's clips lie, and what is made of them."""

    root: Path
    folders: tuple[str, ...]
    templates: tuple[str, ...]
    extract: bool
    short_side: int

    def find(self, clip: Clip) -> str | None:
        """Path of the clip from the root: its frame folder if there is one, else its video file."""
        for base in (*self.folders, ""):
            for name in clip.names:
                for suffix in ("", *sorted(VIDEO_SUFFIXES)):
                    path = self.root / base / f"{name}{suffix}"
                    if path.exists():
                        return path.relative_to(self.root).as_posix()
        return None

    def measure(self, name: str) -> tuple[str, int, str | None]:
        """Path and number of frames of the clip ``name``, extracted if asked for, and why it cannot be used.

        An unreadable clip stays listed, with 0 frames, so that :mod:`trainers.check` names it.
        """
        path = self.root / name
        try:
            if path.is_dir():
                return name, open_frames(path, self.templates).num_frames, None
            if not self.extract:
                return name, open_video(path).num_frames, None
            folder = self._extracted(path)
            return (
                folder.relative_to(self.root).as_posix(),
                open_frames(folder, self.templates).num_frames,
                None,
            )
        except (VideoError, OSError, cv2.error) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise
            return name, 0, str(error)

    def _extracted(self, path: Path) -> Path:
        """The folder of the video's frames; complete once it has its name, so that a rerun goes on."""
        target = self.root / FRAMES / path.relative_to(self.root).with_suffix("")
        if target.is_dir():
            return target
        partial_folder = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        for number, frame in enumerate(open_video(path).frames(self.short_side), 1):
            file = partial_folder / self.templates[0].format(number)
            if not cv2.imwrite(str(file), frame[..., ::-1]):
                raise DataError(f"cannot write {file}: is the disk full? Run again to go on")
        os.replace(partial_folder, target)
        return target


def prepare(
    name: str,
    data_root: Path,
    annotations: Path | None = None,
    extract: bool = False,
    short_side: int = 256,
    workers: int | None = None,
) -> None:
    """Write category.txt and the lists of a data set into its folder.

    Args:
        data_root: the data set's folder, which holds the videos or frame folders.
        annotations: folder of the official annotations; default: the data set's own.
        extract: write the frames of each video as JPEG files into DATA_ROOT/frames; run again to go on.
        short_side: of extracted frames, in pixels; smaller ones keep their size.
        workers: processes; default: one per core.
    """
    if not data_root.is_dir():
        raise DataError(f"there is no folder {data_root}: --data-root names the one that holds the data set")
    classes, splits = READERS[name](annotations or data_root)
    layout = LAYOUTS[name]
    storage = Storage(data_root, layout.folders, layout.templates, extract, short_side)
    places = {clip: storage.find(clip) for clips in splits.values() for clip in clips}
    found = sorted({place for place in places.values() if place})
    if not found:
        raise DataError(
            f"{data_root} holds none of the clips, {next(iter(places)).names[0]} for one: put them there"
        )
    if extract:
        _check_stems(found)
    title = "extracting" if extract else "counting frames"
    measured = {
        place: result
        for place, result in zip(found, in_parallel(storage.measure, found, workers, title), strict=True)
    }
    _write(data_root / CLASS_FILE, classes)
    for stem, clips in splits.items():
        _write(data_root / f"{stem}.txt", list(_lines(clips, classes, places, measured)))
    _summarise(places, measured)


def _check_stems(places: Sequence[str]) -> None:
    """Refuse videos whose frames would go to one folder."""
    stems = {}
    for place in places:
        other = stems.setdefault(Path(place).with_suffix(""), place)
        if other != place:
            raise DataError(f"{other} and {place} would be extracted to one folder: rename one of them")


def _lines(clips: Sequence[Clip], classes: list[str], places: dict, measured: dict) -> Iterator[str]:
    numbers = {label: number for number, label in enumerate(classes)}
    for clip in clips:
        if clip.label not in numbers:
            raise DataError(
                f"{clip.names[0]} is annotated as {clip.label!r}, which is no class of the data set"
            )
        if places[clip]:
            path, frames, _ = measured[places[clip]]
            yield f"{path} {frames} {numbers[clip.label]}"


def _write(path: Path, lines: Sequence[str]) -> None:
    write_atomically(
        path, lambda part: part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    )


def _summarise(places: dict[Clip, str | None], measured: dict[str, tuple[str, int, str | None]]) -> None:
    for place, (_, _, reason) in measured.items():
        if reason:
            print(f"unreadable: {place}: {reason}")
    missing = [clip.names[0] for clip, place in places.items() if place is None]
    if missing:
        print(
            f"{len(missing)} of {len(places)} annotated clips are not there and left out, {missing[0]} for one"
        )
    print(f"{len(measured)} clips listed; look at each of them once with python -m trainers.check")


def main(arguments: Sequence[str] | None = None) -> None:
    commands = {name: partial(prepare, name) for name in READERS}
    tyro.extras.subcommand_cli_from_dict(commands, prog="python -m trainers.prepare", args=arguments)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"trainers.prepare: {error}", file=sys.stderr)
        sys.exit(2)
