"""From a source to batches: draw each clip at every frame count wanted, decoding each frame once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ffn import Preprocess
from ffn.sampling import RULES
from ffn.video import VideoError
from trainers.data.augment import AUGMENTATIONS


class Batch(NamedTuple):
    """Clips by frame count, uint8 (B, T, H, W, 3); class numbers and places in the source (B,); and, each in
    one sentence, the clips that could not be read and are not among them.

    A test batch of V views and C crops holds V * C clips of each video, one after the other: (B * V * C, ...).
    """

    clips: dict[int, Tensor]
    labels: Tensor
    indices: Tensor
    failures: list[str]


class Clips(Dataset):
    """Samples of a source: one clip per frame count in ``counts``, or the reason why there is none.

    With ``epoch`` given, frames are drawn at random and go through the augmentation ``augment``, seeded by
    (seed, epoch, index, repeat): what a sample is never depends on the worker that makes it, nor on what was
    drawn before. Without, frames are at test positions: ``views`` in time by ``crops`` (1 or 3) in space.

    A key is an index of the source, or a pair of it and the number of its repetition in the epoch.
    """

    def __init__(
        self,
        source,
        counts: Iterable[int],
        preprocess: Preprocess,
        seed: int = 0,
        epoch: int | None = None,
        augment: str = "none",
        flip: bool = False,
        views: int = 1,
        crops: int = 1,
    ):
        self.source, self.counts, self.preprocess = source, tuple(counts), preprocess
        self.seed, self.epoch, self.augment, self.flip = seed, epoch, AUGMENTATIONS[augment], flip
        self.views, self.crops = views, crops

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample | str:
        index, repeat = key if isinstance(key, tuple) else (key, 0)
        try:
            clips = self._test(index) if self.epoch is None else self._train(index, repeat)
        except (VideoError, OSError, cv2.error) as error:
            return f"{self.source.name(index)}: {error}"
        return Sample(clips, self.source.label(index), index)

    def _train(self, index: int, repeat: int) -> dict[int, Tensor]:
        def rng(*what: int) -> np.random.Generator:
            return np.random.default_rng((self.seed, self.epoch, index, *what, *[repeat] * bool(repeat)))

        video, rule = self.source.open(index), RULES[self.preprocess.sampling]
        chosen = {count: rule.train(video.num_frames, count, rng(count)) for count in self.counts}
        return _each(chosen, video, lambda frames: self._augmented(frames, rng())[None])

    def _augmented(self, frames: np.ndarray, rng: np.random.Generator) -> Tensor:
        """uint8 ``(T, H, W, 3)`` -> ``(T, side, side, 3)``."""
        if self.augment is None:
            images = self.preprocess.spatial(frames)
        else:
            x = torch.from_numpy(frames).permute(0, 3, 1, 2)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(rng.integers(2**62)))  # for what torchvision draws by itself
                images = self.augment(x, self.preprocess.size, rng).permute(0, 2, 3, 1)
        return images.flip(2) if self.flip and rng.random() < 0.5 else images

    def _test(self, index: int) -> dict[int, Tensor]:
        video, rule = self.source.open(index), RULES[self.preprocess.sampling]
        parts = []
        for view in range(self.views):
            chosen = {count: rule.test(video.num_frames, count, view, self.views) for count in self.counts}
            parts.append(_each(chosen, video, lambda frames: self.preprocess.crops(frames, self.crops)))
        return {count: torch.cat([part[count] for part in parts]) for count in self.counts}


class Sample(NamedTuple):
    clips: dict[int, Tensor]
    """T -> uint8 (K, T, H, W, 3): K views and crops of it"""
    label: int
    index: int


def _each(chosen: dict[int, list[int]], video, prepare: Callable[[np.ndarray], Tensor]) -> dict[int, Tensor]:
    """Decode and ``prepare`` each frame once; the clip (K, T, H, W, 3) of each frame count."""
    kept, places = np.unique(np.concatenate(list(chosen.values())), return_inverse=True)
    images = prepare(video.read(kept.tolist()))
    parts = torch.from_numpy(places).split([len(indices) for indices in chosen.values()])
    return {count: images[:, part] for count, part in zip(chosen, parts, strict=True)}


def _collate(samples: list[Sample | str]) -> Batch:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    return Batch(
        {
            count: torch.cat([sample.clips[count] for sample in good])
            for count in (good[0].clips if good else ())
        },
        torch.tensor([sample.label for sample in good], dtype=torch.int64),
        torch.tensor([sample.index for sample in good], dtype=torch.int64),
        [sample for sample in samples if isinstance(sample, str)],
    )


def train_batches(
    clips: Clips, batch_size: int, workers: int, first: int = 0, rank: int = 0, world: int = 1, repeats: int = 1
) -> DataLoader:
    """The batches of one epoch, from batch ``first`` on, in an order that the seed and the epoch tell.

    ``batch_size`` counts the samples of all processes: ``rank`` of ``world`` takes every world-th of them, so
    that the processes' batches together are the batch of one. Each video stands in a batch ``repeats`` times.
    """
    order = np.random.default_rng((clips.seed, clips.epoch)).permutation(len(clips)).tolist()
    keys = [(index, repeat) for index in order for repeat in range(repeats)]
    keys = keys[first * batch_size : len(keys) // batch_size * batch_size]
    return _loader(clips, batch_size // world, workers, sampler=keys[rank::world], drop_last=True)


def test_batches(clips: Clips, batch_size: int, workers: int, rank: int = 0, world: int = 1) -> DataLoader:
    """Every clip once over all processes, in the source's order."""
    return _loader(clips, batch_size, workers, sampler=range(rank, len(clips), world))


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
