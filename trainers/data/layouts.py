"""The data sets that lie on disk, one line each, and how their lists are found and read."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.data.files import DataError, Entry, split_by_seed
from trainers.data.folder import SPLIT_NAMES, read_folder, split_path

TEMPLATES = ("{:05d}.jpg", "{:06d}.jpg", "image_{:05d}.jpg", "img_{:05d}.jpg")
CLASS_FILE = "category.txt"


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps what.

    ``lists`` are what may follow a split's name in its list's; ``folders`` those, besides the data root, that
    the list's paths may start from; ``templates`` name a folder's frames.
    """

    lists: tuple[str, ...] = (".txt", "_videofolder.txt")
    folders: tuple[str, ...] = ("frames", "videos")
    templates: tuple[str, ...] = TEMPLATES
    kind: str = "lists"


LAYOUTS = {
    "folder": Layout(kind="folder"),
    "csv": Layout(kind="csv"),
    "ssv1": Layout(templates=TEMPLATES[:1], folders=("frames", "20bn-something-something-v1")),
    "ssv2": Layout(templates=TEMPLATES[1:2], folders=("frames", "20bn-something-something-v2")),
    "kinetics": Layout(templates=TEMPLATES[2:]),
    "hmdb51": Layout(("{fold}.txt",), templates=TEMPLATES[2:3]),
}


def read_clips(
    layout: Layout, root: Path, split: str, *, fold: int, seed: int
) -> tuple[Sequence[str], list[Entry]]:
    """Classes and clips of one split of the data set in ``root``; DataError if it cannot be used."""
    if layout.kind == "csv":
        return _read_csv(root, split, seed)
    path = find_list(layout, root, split, fold)
    if path is not None:
        train = path if split == "train" else find_list(layout, root, "train", fold)
        return _read_list(layout, root, path, train, split)
    if layout.kind == "folder":
        if not root.is_dir():
            raise DataError(f"{root} is no folder: --data-root names a folder of clips (or use --data csv)")
        if other := find_list(layout, root, "val" if split == "train" else "train"):
            raise DataError(f"{root} has {other.name} but no {split}.txt: add that, or remove {other.name}")
        return read_folder(root, split, seed, read_categories(root))
    ending = layout.lists[0].format(fold=fold)
    raise DataError(f"{root} holds no {split}{ending}: make the lists with python -m trainers.prepare")


def find_list(layout: Layout, root: Path, split: str, fold: int = 1) -> Path | None:
    """The split's list in ``root``, by any of the split's names, if it is there."""
    if fold not in (1, 2, 3):
        raise DataError(f"there are folds 1, 2 and 3, not {fold}")
    found = (split_path(root, split, ending.format(fold=fold)) for ending in layout.lists)
    return next(filter(None, found), None)


def read_categories(root: Path) -> list[str] | None:
    """The class names of ``category.txt``, one a line."""
    path = root / CLASS_FILE
    if not path.is_file():
        return None
    return [line.strip() for line in _lines(path) if line.strip()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: save it as such") from error


# ---------------------------------------------------------------- list files


def parse_line(line: str, where: str) -> tuple[str, int | None, int]:
    """Path, number of frames and label of a list's line; the path may hold spaces.

    Two forms: ``path num_frames label``, and ``index label path``.
    """
    head = line.rsplit(None, 2)
    if len(head) == 3 and head[1].isdigit() and head[2].lstrip("-").isdigit():
        return head[0].strip(), int(head[1]) or None, int(head[2])  # 0: count them
    tail = line.split(None, 2)
    if len(tail) == 3 and tail[0].isdigit() and tail[1].lstrip("-").isdigit():
        return tail[2].strip(), None, int(tail[1])
    raise DataError(f"{where} is {line.strip()!r}: write it as 'path num_frames label'")


def _read_list(
    layout: Layout, root: Path, path: Path, train: Path | None, split: str
) -> tuple[Sequence[str], list[Entry]]:
    lines = _parse_list(path)
    classes = read_categories(root)
    if classes is None:
        classes = _classes_by_folder(lines if train in (path, None) else _parse_list(train), root, path)
    base = _base(root, [root, root / path.stem, *(root / name for name in layout.folders)], lines[0][1])
    entries = []
    for number, name, frames, label in lines:
        where = f"{path.name} line {number}"
        if not 0 <= label < len(classes):
            raise DataError(
                f"{where}: the label {label} of {name} lies outside 0 to {len(classes) - 1}: correct it, or "
                f"add its class to {CLASS_FILE}"
            )
        entries.append(Entry(_name(base / name, root), base / name, label, frames, where))
    return classes, entries


def _parse_list(path: Path) -> list[tuple[int, str, int | None, int]]:
    """(line number from 1, path, number of frames, label) of each line; blank ones left out."""
    lines = [
        (number, *parse_line(line, f"{path.name} line {number}"))
        for number, line in enumerate(_lines(path), 1)
        if line.strip()
    ]
    if not lines:
        raise DataError(f"{path} is empty: it needs a line 'path num_frames label' for each clip")
    return lines


def _classes_by_folder(lines: list[tuple[int, str, int | None, int]], root: Path, path: Path) -> list[str]:
    """Without a category.txt: each label is called after the folder that all its listed clips lie in."""
    names: dict[int, set[str]] = {}
    for _, name, _, label in lines:
        names.setdefault(label, set()).add(Path(name).parent.name)
    known = sorted(names) == list(range(len(names))) and all(
        len(n) == 1 and "" not in n for n in names.values()
    )
    if not known or len(set.union(*names.values())) < len(names):
        raise DataError(f"{root} needs a {CLASS_FILE}, one class name a line, for the labels in {path.name}")
    return [names[label].pop() for label in sorted(names)]


def _base(root: Path, candidates: Iterable[Path], first: str) -> Path:
    """The folder that the list's paths start from: the first one under which the first path is there."""
    return next((folder for folder in candidates if (folder / first).exists()), root)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


# ---------------------------------------------------------------- CSV


def _read_csv(root: Path, split: str, seed: int) -> tuple[Sequence[str], list[Entry]]:
    """Columns ``path`` and ``label`` (a class name), and if wanted ``split`` and ``num_frames``.

    ``root`` is a folder with ``train.csv`` and ``val.csv``, or with one ``.csv``, or that file itself.
    """
    folder = root if root.is_dir() else root.parent
    path, train, val = (_csv_file(root, name) for name in (split, "train", "val"))
    classes = read_categories(folder) or sorted({row["label"] for _, row in _csv_rows(train)})
    rows = _csv_rows(path)
    entries = [_csv_entry(folder, f"{path.name} line {number}", row, classes) for number, row in rows]
    if train != val:
        return classes, entries
    if any(row.get("split") for _, row in rows):
        splits = [_csv_split(f"{path.name} line {number}", row) for number, row in rows]
        names = set(SPLIT_NAMES[split])
        if names & set(splits) != {"test"}:  # which stands for validation only where there is no other
            names -= {"test"}
        return classes, [entry for entry, name in zip(entries, splits, strict=True) if name in names]
    return classes, split_by_seed(entries, split, seed)


def _csv_split(where: str, row: dict[str, str]) -> str:
    name, known = (row["split"] or "").strip().lower(), [n for names in SPLIT_NAMES.values() for n in names]
    if name not in known:
        raise DataError(f"{where}: the split is {name!r}: write one of {', '.join(known)}")
    return name


def _csv_file(root: Path, split: str) -> Path:
    if not root.is_dir():
        return root
    tables = sorted(root.glob("*.csv"))
    path = split_path(root, split, ".csv") or (tables[0] if len(tables) == 1 else None)
    if path is None:
        raise DataError(f"{root} needs a {split}.csv, or a single .csv for both splits")
    return path


def _csv_entry(folder: Path, where: str, row: dict[str, str], classes: Sequence[str]) -> Entry:
    path, label, frames = folder / row["path"], row["label"], row.get("num_frames") or "0"
    if label not in classes:
        raise DataError(f"{where}: {label!r} is no class ({', '.join(classes)}): correct or remove that line")
    if not frames.isdigit():
        raise DataError(f"{where}: num_frames is {frames!r}: write a whole number, or leave it empty")
    return Entry(_name(path, folder), path, classes.index(label), int(frames) or None, where)


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of each clip."""
    reader = csv.DictReader(_lines(path))
    if not {"path", "label"} <= set(reader.fieldnames or ()):
        raise DataError(f"{path} needs a first line that names its columns: path,label")
    rows = [(reader.line_num, row) for row in reader]
    for number, row in rows:
        if not row["path"] or not row["label"]:
            raise DataError(f"{path.name} line {number} lacks a path or a label: fill it in")
    if not rows:
        raise DataError(f"{path} lists no clips: add a line path,label for each")
    return rows
