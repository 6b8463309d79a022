"""Batches: each draw from its own seed, the same whoever loads it, nothing lost and nothing twice."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ffn import Preprocess
from trainers.data.augment import AUGMENTATIONS, area, multiscale, short_side
from trainers.data.clips import Clips, train_batches
from trainers.data.clips import test_batches as every_clip

PREPROCESS = Preprocess(16, 18)


class Gradients:
    """Ten clips of 12 frames whose pixels tell their place: red the row, green the column, blue the clip."""

    classes = ("a", "b")

    def __len__(self):
        return 10

    def label(self, i):
        return i % 2

    def name(self, i):
        return f"clip {i}"

    def open(self, i):
        if i == 7:
            raise ValueError("clip 7 is damaged")
        rows, columns = np.mgrid[:30, :40].astype(np.uint8)
        frame = np.stack([rows, columns, np.full_like(rows, 10 * i)], -1)
        return SimpleNamespace(num_frames=12, fps=30, read=lambda indices: np.stack([frame] * len(indices)))


def train(seed=0, epoch=0, augment="multiscale", counts=(2, 4), **how):
    return Clips(Gradients(), counts, PREPROCESS, seed, epoch, augment=augment, **how)


def rows(batches):
    """index and both clips of each sample"""
    return [
        (index, batch.clips[2][k].tolist(), batch.clips[4][k].tolist())
        for batch in batches
        for k, index in enumerate(batch.indices.tolist())
    ]


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_all_frames_of_all_counts_are_cropped_alike_and_differently_each_time(augment):
    seen = []
    for repeat in range(6):
        clips = train(augment=augment)[1, repeat].clips
        assert {n: tuple(clip.shape) for n, clip in clips.items()} == {n: (1, n, 16, 16, 3) for n in (2, 4)}
        frames = torch.cat([clips[2][0], clips[4][0]])
        assert frames.dtype == torch.uint8
        if augment != "randaugment":  # erased rectangles are noise, in each frame another
            assert (frames == frames[0]).all()
        seen.append(frames[0].tolist())
    assert (len({str(image) for image in seen}) == 1) is (augment == "none")


def test_flips_where_it_is_asked_for_and_classes_allow():
    mirrored = [train(flip=True)[1, r].clips[2][0, 0, 8, :, 1].float().diff().mean() < 0 for r in range(30)]
    assert 5 < sum(mirrored) < 25
    assert not any(train()[1, r].clips[2][0, 0, 8, :, 1].float().diff().mean() < 0 for r in range(30))
    source = Gradients()
    source.classes = ("moving left", "moving right")
    with pytest.raises(ValueError, match="a mirrored clip of 'moving left' shows another class"):
        Clips(source, (2,), PREPROCESS, 0, 0, augment="multiscale", flip=True)
    source.classes = ("bright light", "upright")
    assert Clips(source, (2,), PREPROCESS, 0, 0, augment="multiscale", flip=True).flip


def test_boxes_lie_within_the_frame():
    for draw in (multiscale, short_side, area):
        for seed in range(200):
            for height, width in ((30, 40), (40, 30), (17, 100), (224, 224)):
                top, left, h, w = draw(np.random.default_rng(seed), height, width, 16)
                assert min(top, left) >= 0 < min(h, w) and top + h <= height and left + w <= width
    sides = {multiscale(np.random.default_rng(s), 256, 340, 224)[2:] for s in range(300)}
    known = [256, 224, 192, 168]
    assert sides == {(a, b) for i, a in enumerate(known) for j, b in enumerate(known) if abs(i - j) < 2}


def test_randaugment_is_seeded_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = (train(augment="randaugment")[2, 0].clips[4] for _ in range(2))
    assert torch.equal(one, two) and torch.equal(before, torch.get_rng_state())


def test_processes_together_make_the_batch_of_one():
    whole = list(train_batches(train(), 4, 0, repeats=2))
    parts = [list(train_batches(train(), 4, 0, rank=rank, world=2, repeats=2)) for rank in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1]) == 5
    for one, *shares in zip(whole, *parts, strict=True):
        assert sorted(rows([one])) == sorted(rows(shares))
    with pytest.raises(ValueError, match="a batch of 4 cannot be shared by 3 processes"):
        train_batches(train(), 4, 0, world=3)


def test_workers_and_resuming_change_nothing():
    alone = rows(train_batches(train(epoch=3), 2, 0))
    assert rows(train_batches(train(epoch=3), 2, 2)) == alone
    resumed = rows(train_batches(train(epoch=3), 2, 0, first=2))
    assert resumed == alone[-len(resumed) :] and 4 <= len(resumed) <= 6
    assert rows(train_batches(train(epoch=4), 2, 0)) != alone
    assert rows(train_batches(train(epoch=3, seed=1), 2, 0)) != alone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_the_workers_to_the_run(number):
    alone = rows(train_batches(train(), 2, 0))
    batches = iter(train_batches(train(), 2, 1))
    worker = batches._workers[0]
    os.kill(worker.pid, number)  # as it begins
    first = next(batches)
    os.kill(worker.pid, number)  # as it works
    assert rows([first, *batches]) == alone


def test_the_first_epoch_of_a_gradual_source_keeps_its_order():
    class Gradual(Gradients):
        gradual = True

    def order(source, epoch):
        clips = Clips(source, (2,), PREPROCESS, 0, epoch)
        return [i for batch in train_batches(clips, 2, 0) for i in batch.indices.tolist()]

    kept = [0, 1, 2, 3, 4, 5, 6, 8, 9]  # 7 is damaged
    assert order(Gradual(), 0) == kept != order(Gradients(), 0)
    assert order(Gradual(), 1) == order(Gradients(), 1) != kept


def test_a_clip_that_cannot_be_read_is_left_out_by_name():
    batches = list(train_batches(train(), 10, 0))
    assert batches[0].failures == ["clip 7: clip 7 is damaged"]
    assert sorted(batches[0].indices.tolist()) == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    alone = list(every_clip(Clips(Gradients(), (2,), PREPROCESS), 1, 0))[7]
    assert alone.clips == {} and alone.indices.tolist() == [] and len(alone.failures) == 1


def test_a_test_counts_every_clip_once_over_all_processes():
    clips = Clips(Gradients(), (2,), PREPROCESS)
    shares = [[i for batch in every_clip(clips, 3, 0, r, 3) for i in batch.indices.tolist()] for r in range(3)]
    assert sorted(i for share in shares for i in share) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_views_and_crops():
    clips = Clips(Gradients(), (2, 4), PREPROCESS, views=2, crops=3)
    batch = next(iter(every_clip(clips, 2, 0)))
    assert batch.clips[4].shape == (2 * 2 * 3, 4, 16, 16, 3) and batch.indices.tolist() == [0, 1]
    left, centre, right = batch.clips[2][:3, 0, 8, :, 1].float().mean(1).tolist()
    assert left < centre < right and centre == pytest.approx(19.5, abs=1)
    single = Clips(Gradients(), (2,), PREPROCESS)[0].clips[2]
    assert torch.equal(
        single[0], batch.clips[2][1]
    )  # the frames are all alike: the centre crop is the plain one
    with pytest.raises(ValueError, match="1 or 3 crops"):
        Clips(Gradients(), (2,), PREPROCESS, crops=2)
