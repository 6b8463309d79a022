"""From a source to batches: draw each clip at every frame count wanted, decoding each frame once."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ffn import Preprocess
from ffn.sampling import RULES
from trainers.data.augment import AUGMENTATIONS

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Batch(NamedTuple):
    """Clips at every frame count, with the labels and the numbers in their source; all on the CPU.

    A test of V views and C crops gives V * C clips of each video, one after another: their mean prediction
    counts. Clips that could not be decoded are left out: ``failures`` names them and says why. Without any
    clip ``clips`` is empty.
    """

    clips: dict[int, Tensor]
    """frame count T -> uint8 RGB ``(B, T, size, size, 3)``, or ``(B * V * C, ...)``"""
    labels: Tensor
    """int64 ``(B,)``"""
    indices: Tensor
    """int64 ``(B,)``"""
    failures: list[str]


class Sample(NamedTuple):
    """One video: T -> uint8 ``(V * C, T, size, size, 3)``."""

    clips: dict[int, Tensor]
    label: int
    index: int


class Clips(Dataset):
    """Samples of a source, one clip per frame count in ``counts``; a key is ``index`` or ``(index, repeat)``.

    With ``epoch`` given, frames and augmentation (a name in ``AUGMENTATIONS``; mirrored too if ``flip``) are
    drawn at random, seeded by (seed, epoch, index, repeat): what a sample is never depends on the worker or
    process that makes it. Without, ``views`` clips at test positions, each cropped ``crops`` times (1: centre,
    3: along the long side).

    A clip that cannot be decoded gives, instead of a sample, a string that says so.
    """

    def __init__(
        self,
        source,
        counts: Iterable[int],
        preprocess: Preprocess,
        seed: int = 0,
        epoch: int | None = None,
        *,
        augment: str = "none",
        flip: bool = False,
        views: int = 1,
        crops: int = 1,
    ):
        if augment not in AUGMENTATIONS:
            raise ValueError(f"there is no augmentation {augment!r}; choose one of {', '.join(AUGMENTATIONS)}")
        if views < 1 or crops not in (1, 3):
            raise ValueError(f"a test takes at least 1 view and 1 or 3 crops, not {views} and {crops}")
        if flip and (sided := _sided(source.classes)):
            raise ValueError(f"a mirrored clip of {sided!r} shows another class: leave flip off")
        self.source = source
        self.counts = tuple(counts)
        self.preprocess = preprocess
        self.seed, self.epoch = seed, epoch
        self.augment = AUGMENTATIONS[augment]
        self.flip = flip
        self.views, self.crops = views, crops

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample | str:
        index, repeat = key if isinstance(key, tuple) else (key, 0)
        try:
            clips = self._test_clips(index) if self.epoch is None else self._train_clips(index, repeat)
        except (ValueError, OSError, cv2.error) as error:
            return f"{self.source.name(index)}: {error}"
        return Sample(clips, self.source.label(index), index)

    def _test_clips(self, index: int) -> dict[int, Tensor]:
        video, rule = self.source.open(index), RULES[self.preprocess.sampling]
        chosen = {
            count: [rule.test(video.num_frames, count, view, self.views) for view in range(self.views)]
            for count in self.counts
        }
        frames, places = _read_once(video, chosen)
        crops = self.preprocess.spatial_crops(frames, self.crops)  # (crops, frames, size, size, 3)
        return {count: crops[:, rows].transpose(0, 1).flatten(0, 1) for count, rows in places.items()}

    def _train_clips(self, index: int, repeat: int) -> dict[int, Tensor]:
        video, rule = self.source.open(index), RULES[self.preprocess.sampling]
        draws = (self.seed, self.epoch, index, repeat)
        chosen = {
            count: [rule.train(video.num_frames, count, np.random.default_rng((*draws, count)))]
            for count in self.counts
        }
        frames, places = _read_once(video, chosen)
        images = self.augment(frames, self.preprocess, np.random.default_rng((*draws, 0)), self.flip)
        return {count: images[rows] for count, rows in places.items()}


def _read_once(video, chosen: dict[int, list[list[int]]]) -> tuple[np.ndarray, dict[int, Tensor]]:
    """Each frame of ``chosen`` once, and where those of each frame count are among them."""
    kept = sorted({i for rows in chosen.values() for row in rows for i in row})
    return video.read(kept), {n: torch.from_numpy(np.searchsorted(kept, rows)) for n, rows in chosen.items()}


def _sided(classes: Iterable[str]) -> str | None:
    """The first class, if any, whose name tells left from right."""
    side = re.compile(r"(?<![a-z])(left|right|(counter|anti)?-?clockwise)(?![a-z])", re.IGNORECASE)
    return next(filter(side.search, classes), None)


def train_batches(
    clips: Clips, batch_size: int, workers: int, first: int = 0, rank: int = 0, world: int = 1, repeats: int = 1
) -> DataLoader:
    """The :class:`Batch` es of one epoch, from batch ``first`` on, in an order that seed and epoch decide; the
    first epoch of a ``gradual`` source keeps the source's order.

    ``batch_size`` counts the samples of all ``world`` processes together; the process ``rank`` takes every
    ``world``-th one. Each video stands ``repeats`` times in its batch, drawn anew each time.

    Raises:
        ValueError: if the batch cannot be shared out evenly.
    """
    if batch_size % world or batch_size % repeats:
        raise ValueError(
            f"a batch of {batch_size} cannot be shared by {world} processes and {repeats} repeats of each "
            "video: take a multiple of both"
        )
    order = np.random.default_rng((clips.seed, clips.epoch)).permutation(len(clips)).tolist()
    if clips.epoch == 0 and getattr(clips.source, "gradual", False):
        order = range(len(clips))
    keys = [(index, repeat) for index in order for repeat in range(repeats)]
    keys = keys[first * batch_size : len(keys) // batch_size * batch_size]
    return _loader(clips, batch_size // world, workers, keys[rank::world])


def test_batches(clips: Clips, batch_size: int, workers: int, rank: int = 0, world: int = 1) -> DataLoader:
    """Every clip once over all processes, in the source's order, ``batch_size`` of them at a time."""
    return _loader(clips, batch_size, workers, range(rank, len(clips), world))


def default_workers(device: torch.device) -> int:
    """Loader processes that leave the cores for the network where it runs on the CPU."""
    cores = os.cpu_count() or 1
    return min(8, cores) if device.type != "cpu" else max(1, cores // 2)


def _loader(clips: Clips, batch_size: int, workers: int, keys: Sequence) -> DataLoader:
    return _Loader(
        clips,
        batch_size,
        sampler=keys,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet,
        # Its own generator: the loader would draw from the global one, and a resumed run once more.
        generator=torch.Generator(),
    )


def _collate(samples: list[Sample | str]) -> Batch:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    counts = good[0].clips if good else ()
    return Batch(
        {count: torch.cat([sample.clips[count] for sample in good]) for count in counts},
        torch.tensor([sample.label for sample in good], dtype=torch.int64),
        torch.tensor([sample.index for sample in good], dtype=torch.int64),
        [sample for sample in samples if isinstance(sample, str)],
    )


class _Loader(DataLoader):
    """A loader whose processes leave stopping to the run: it is the whole group that a terminal or a cluster
    sends the signal, and the run saves first."""

    def __iter__(self):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # inherited: no gap before _quiet
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _quiet(_worker: int) -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
