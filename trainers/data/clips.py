"""From a source to batches: draw each clip at every frame count wanted, decoding each frame once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ffn import Preprocess
from ffn.sampling import RULES


class Batch(NamedTuple):
    """Clips by frame count, uint8 (B, T, H, W, 3); class numbers and places in the source (B,); and, each in
    one sentence, the clips that could not be read and are not among them."""

    clips: dict[int, Tensor]
    labels: Tensor
    indices: Tensor
    failures: list[str]


class Clips(Dataset):
    """Samples ``({T: uint8 (T, size, size, 3)}, label)`` of a source, one clip per frame count in ``counts``.

    With ``epoch`` given, frames are drawn at random, seeded by (seed, epoch, index): what a sample is
    never depends on the worker that makes it, nor on what was drawn before. Without, at test positions.
    """

    def __init__(
        self,
        source,
        counts: Iterable[int],
        preprocess: Preprocess,
        seed=0,
        epoch: int | None = None,
        augment="none",
        flip=False,
    ):
        self.source = source
        self.counts = tuple(counts)
        self.preprocess = preprocess
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[dict[int, Tensor], int]:
        video = self.source.open(index)
        chosen = {count: self._choose(video.num_frames, count, index) for count in self.counts}
        kept, places = np.unique(np.concatenate(list(chosen.values())), return_inverse=True)
        images = self.preprocess.spatial(video.read(kept.tolist()))
        parts = torch.from_numpy(places).split(self.counts)
        clips = {n: images[part] for n, part in zip(self.counts, parts, strict=True)}
        return clips, self.source.label(index), index

    def _choose(self, num_frames: int, count: int, index: int) -> list[int]:
        rule = RULES[self.preprocess.sampling]
        if self.epoch is None:
            return rule.test(num_frames, count)
        return rule.train(num_frames, count, np.random.default_rng((self.seed, self.epoch, index, count)))


class Shuffled(Sampler[int]):
    """The order of one epoch, from sample ``start`` on: the same for the same seed and epoch."""

    def __init__(self, length: int, seed: int, epoch: int, start: int = 0):
        order = np.random.default_rng((seed, epoch)).permutation(length)
        self.order = order[start:].tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


def train_batches(
    clips: Clips, batch_size: int, workers: int, first: int = 0, rank: int = 0, world: int = 1, repeats: int = 1
) -> DataLoader:
    """Batches of one epoch, from batch ``first`` on."""
    order = Shuffled(len(clips), clips.seed, clips.epoch, first * batch_size)
    order.order = order.order[: len(order.order) // batch_size * batch_size][rank::world]
    return _loader(clips, batch_size // world, workers, sampler=order, drop_last=True)


def test_batches(clips: Clips, batch_size: int, workers: int, rank: int = 0, world: int = 1) -> DataLoader:
    """Every clip once, in the source's order."""
    return _loader(clips, batch_size, workers, sampler=range(rank, len(clips), world))


def _collate(samples) -> Batch:
    clips, labels, indices = default_collate(samples)
    return Batch(clips, labels, indices, [])


def default_workers(device: torch.device) -> int:
    """Loader processes that leave the cores for the network where it runs on the CPU."""
    cores = os.cpu_count() or 1
    return min(8, cores) if device.type != "cpu" else max(1, cores // 2)


def _loader(clips: Clips, batch_size: int, workers: int, **how) -> DataLoader:
    return DataLoader(
        clips,
        batch_size,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_quiet,
        # Its own generator: the loader would draw from the global one, and a resumed run once more.
        generator=torch.Generator(),
        **how,
    )


def _quiet(_worker: int) -> None:
    cv2.setNumThreads(0)  # many workers with threads of their own would fight for the cores
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the run saves, then ends them
        signal.signal(number, signal.SIG_IGN)
