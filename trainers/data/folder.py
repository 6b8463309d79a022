"""Clips as people keep them: ``train/<class>/*.mp4`` and ``val/<class>/*.mp4``, or one folder of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ffn.video import find_videos
from trainers.data.files import DataError, Entry, split_by_seed

FRAMES = "frames"
"""the folder that trainers.prepare extracts frames into"""
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validate", "validation", "test")}


def split_path(root: Path, split: str, suffix: str = "") -> Path | None:
    """The folder of a split, or with a suffix (``.txt``) its list, by any of its usual names."""
    candidates = (root / f"{name}{suffix}" for name in SPLIT_NAMES[split])
    return next((path for path in candidates if path.exists()), None)


def read_folder(
    root: Path, split: str, seed: int, order: list[str] | None = None
) -> tuple[Sequence[str], list[Entry]]:
    """Classes, in ``order`` if given, and clips of one split; without ``val``, some are held out.

    Raises:
        DataError: if there are no classes, a class has no clips, ``val`` has a class that ``train`` has not,
            or ``order`` does not name the classes.
    """
    train, val = split_path(root, "train"), split_path(root, "val")
    classes = class_names(train or root)
    if order is not None:
        if sorted(order) != classes:
            different = sorted({*order} ^ {*classes}) or order
            raise DataError(
                f"category.txt and the folders in {train or root} differ in {different[0]}: the file needs one "
                "line a folder; correct it, or remove it for alphabetical order"
            )
        classes = order
    if val is None:
        return classes, split_by_seed(_clips(root, train or root, classes), split, seed)
    if train is None:
        raise DataError(f"{root} has {val.name}/ but no train/: add the folder of training clips")
    for name in class_names(val):
        if name not in classes:
            raise DataError(
                f"{val / name} is no class of {train.name}/ ({', '.join(classes)}): rename or remove it"
            )
    return classes, _clips(root, train if split == "train" else val, classes, split == "val")


def class_names(folder: Path) -> list[str]:
    """The folders of ``folder``, in order; hidden ones left out, and frames that trainers.prepare extracts."""
    folders = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    names = sorted(p.name for p in folders if p.name != FRAMES or find_videos(p))
    if not names:
        raise DataError(f"{folder} holds no folders of classes: put the clips into {folder.name}/<class>/")
    return names


def _clips(root: Path, folder: Path, classes: list[str], may_lack: bool = False) -> list[Entry]:
    entries = []
    for label, name in enumerate(classes):
        if may_lack and not (folder / name).is_dir():
            continue
        paths = find_videos(folder / name)
        if not paths:
            raise DataError(
                f"{folder / name} holds no clips (.mp4, .webm, .mkv ...): add some or remove the folder"
            )
        entries += [Entry(path.relative_to(root).as_posix(), path, label) for path in paths]
    return entries
