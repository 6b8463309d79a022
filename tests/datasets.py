"""Small real data sets on disk."""

import shutil

import cv2
import numpy as np

from trainers.data import create_source

FRAMES = 6  # of the clip of the fixture ``clip``


def place(clip, *paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, path)


def jpegs(folder, count=FRAMES, template="{:05d}.jpg"):
    """Grey frames whose brightness is 20 + 4 x the frame's number from 0."""
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / template.format(i + 1)), np.full((24, 32, 3), 20 + 4 * i, np.uint8))


def source(name, root, split="train", **options):
    return create_source(name, split, root=root, size=16, **options)


def names(source):
    return [source.name(i) for i in range(len(source))]
