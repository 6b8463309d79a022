"""Clips as people keep them: ``train/<class>/*.mp4`` and ``val/<class>/*.mp4``, or one folder of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainers.data.files import VIDEO_SUFFIXES, DataError, Entry, split_by_seed

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validate", "validation", "test")}


def split_path(root: Path, split: str, suffix: str = "") -> Path | None:
    """The folder of a split, or with a suffix (``.txt``) its list, by any of its usual names."""
    candidates = (root / f"{name}{suffix}" for name in SPLIT_NAMES[split])
    return next((path for path in candidates if path.exists()), None)


def read_folder(root: Path, split: str, share: float, seed: int) -> tuple[Sequence[str], list[Entry]]:
    """Classes and clips of one split; without a folder for ``val``, a ``share`` of the clips is held out.

    Raises:
        DataError: if there are no classes, a class has no clips, or ``val`` has a class that ``train`` has not.
    """
    train, val = split_path(root, "train"), split_path(root, "val")
    classes = class_names(train or root)
    if val is None:
        return classes, split_by_seed(_clips(root, train or root, classes), split, share, seed)
    if train is None:
        raise DataError(f"{root} has {val.name}/ but no train/: add the folder of training clips")
    for name in class_names(val):
        if name not in classes:
            raise DataError(
                f"{val / name} is no class of {train.name}/ ({', '.join(classes)}): rename or remove it"
            )
    return classes, _clips(root, train if split == "train" else val, classes, split == "val")


def class_names(folder: Path) -> list[str]:
    """The folders of ``folder``, in order; hidden ones left out."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DataError(f"{folder} holds no folders of classes: put the clips into {folder.name}/<class>/")
    return names


def _clips(root: Path, folder: Path, classes: list[str], may_lack: bool = False) -> list[Entry]:
    entries = []
    for label, name in enumerate(classes):
        if may_lack and not (folder / name).is_dir():
            continue
        paths = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES)
        paths = [path for path in paths if not path.name.startswith(".")]
        if not paths:
            raise DataError(
                f"{folder / name} holds no clips (.mp4, .webm, .mkv ...): add some or remove the folder"
            )
        entries += [Entry(path.relative_to(root).as_posix(), path, label) for path in paths]
    return entries
