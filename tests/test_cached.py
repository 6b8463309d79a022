"""Clips kept on disk are the clips that were made."""

import numpy as np

from trainers.data import create_source
from trainers.data.cached import Cached
from trainers.data.motion import Motion


class Counting(Motion):
    opened = 0

    def open(self, i):
        self.opened += 1
        return super().open(i)


def test_cached_clips_equal_fresh_ones_and_are_made_once(tmp_path):
    source = Counting("val", 4, 32)
    cached = Cached(source, tmp_path, "motion")
    for _ in range(2):
        for i in range(4):
            assert np.array_equal(cached.open(i).read([5, 0, 5]), Motion("val", 4, 32).open(i).read([5, 0, 5]))
            assert cached.label(i) == source.label(i)
    assert source.opened == 1 + 4  # one to learn the shape
    again = Cached(fresh := Counting("val", 4, 32), tmp_path, "motion")
    assert np.array_equal(again.open(2).read([1]), cached.open(2).read([1])) and fresh.opened == 1


def test_the_cache_is_an_option_of_the_data_set(tmp_path):
    plain, cached = (create_source("motion", "val", size=32, clips=2, cache=c) for c in (None, tmp_path))
    assert np.array_equal(plain.open(1).read([3]), cached.open(1).read([3]))
    assert len(list(tmp_path.iterdir())) == 2
