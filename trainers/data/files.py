"""Clips that lie on disk, as video files or as folders of frames: one source for every data set of files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffn.video import VideoError, VideoFile, open_video
from trainers.data.frame_folder import FrameFolder, open_frames

HELD_OUT = 0.2  # share of the clips that validate where a data set has no split of its own
REPORT = "check.json"  # what python -m trainers.check leaves in a data set's folder


class DataError(ValueError):
    """A data set that cannot be used; one sentence that names the file and line, and the fix."""


@dataclass(frozen=True)
class Entry:
    """One clip as a data set lists it: a video file or a folder of frames, found at ``path``.

    ``num_frames`` is what the list says (None: not said), ``where`` the list and line it stands in.
    """

    name: str
    path: Path
    label: int
    num_frames: int | None = None
    where: str = ""


class Files:
    """A source (see :mod:`trainers.data`) of the clips ``entries``; labels count into ``classes``.

    ``skipped`` names the clips left out because a report of :mod:`trainers.check` calls them bad.
    """

    def __init__(self, classes: Sequence[str], entries: Sequence[Entry], templates: Sequence[str]):
        self.classes, self.entries, self.templates = tuple(classes), list(entries), templates
        self.skipped: list[str] = []
        self.measured: dict[str, list] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def label(self, i: int) -> int:
        return self.entries[i].label

    def name(self, i: int) -> str:
        return self.entries[i].name

    def open(self, i: int) -> VideoFile | FrameFolder:
        """Raises VideoError, which names the clip, for one that cannot be used."""
        entry = self.entries[i]
        try:
            if entry.path.is_dir():
                return open_frames(entry.path, self.templates, entry.num_frames)
            if not entry.path.exists():
                raise VideoError(f"there is no video or frame folder {entry.path}: put it there, or unlist it")
            if entry.name in self.measured:  # spares a pass over the file; what it says may be out of date,
                return VideoFile(entry.path, *self.measured[entry.name])  # which reading it then tells
            return open_video(entry.path)
        except VideoError as error:
            raise VideoError(f"{error} ({entry.where})" if entry.where else str(error)) from error

    def take(self, clips: int | None, seed: int) -> None:
        """Keep at most ``clips`` of them, drawn at random but the same for the same seed; None keeps all."""
        if clips is not None and clips < len(self):
            chosen = np.random.default_rng(seed).choice(len(self), clips, replace=False)
            self.entries = [self.entries[i] for i in sorted(chosen)]

    def skip_bad(self, root: Path, split: str, max_bad: float) -> None:
        """Leave out the clips that the report in ``root``, if there is one, found bad.

        Raises:
            DataError: if they are more than the share ``max_bad``.
        """
        report = read_report(root / REPORT)
        bad, self.measured = report["bad"], report["videos"]
        self.skipped = [entry.name for entry in self.entries if entry.name in bad]
        if len(self.skipped) > max_bad * len(self.entries):
            first = self.skipped[0]
            raise DataError(
                f"{len(self.skipped)} of {len(self.entries)} {split} clips are bad, more than the share of "
                f"{max_bad:g} you allow; {first}: {bad[first]} (all stand in {root / REPORT}): repair or "
                "remove them and check again, or allow more with --max-bad"
            )
        self.entries = [entry for entry in self.entries if entry.name not in bad]
        if not self.entries:
            raise DataError(f"{root} has no {split} clips that can be used: add some")


def read_report(path: Path) -> dict[str, dict]:
    """``bad``, clip to reason, and ``videos``, clip to (frames, fps, width, height); empty if none was made."""
    if not path.is_file():
        return {"bad": {}, "videos": {}}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        return {part: dict(report[part]) for part in ("bad", "videos")}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no report of trainers.check: check again, or remove it") from error


def split_by_seed(entries: Sequence[Entry], split: str, seed: int) -> list[Entry]:
    """The ``train`` or ``val`` part; of every class with two clips or more, HELD_OUT (at least one) is val.

    A class is drawn from its own seed, so that adding another one moves no clip.
    """
    by_label: dict[int, list[Entry]] = {}
    for entry in entries:
        by_label.setdefault(entry.label, []).append(entry)
    chosen = []
    for members in by_label.values():
        members = sorted(members, key=lambda entry: entry.name)
        held_out = min(max(1, round(HELD_OUT * len(members))), len(members) - 1)
        key = zlib.crc32(members[0].path.parent.name.encode())
        order = np.random.default_rng((seed, key)).permutation(len(members))
        part = order[:held_out] if split == "val" else order[held_out:]
        chosen += [members[i] for i in sorted(part)]
    return chosen
