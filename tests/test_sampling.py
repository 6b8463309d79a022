"""Frame positions, against values worked out by hand."""

import numpy as np
import pytest

from ffn.sampling import RULES


@pytest.mark.parametrize(
    ("num_frames", "count", "expected"),
    [
        (32, 4, [4, 12, 20, 28]),
        (10, 4, [1, 3, 6, 8]),  # tick 2.5: int(1.25), int(3.75), int(6.25), int(8.75)
        (3, 4, [0, 1, 1, 2]),  # tick .75: int(.375), int(1.125), int(1.875), int(2.625)
        (1, 3, [0, 0, 0]),
    ],
)
def test_segment_test(num_frames, count, expected):
    assert RULES["segment"].test(num_frames, count) == expected


@pytest.mark.parametrize(
    ("num_frames", "count", "expected"),
    [
        (32, 4, [4, 12, 19, 27]),  # spans 0-8, 8-16, 16-23, 23-31 (15.5 rounds to the even 16)
        (5, 8, [0, 0, 1, 2, 2, 2, 3, 4]),
        (1, 2, [0, 0]),
    ],
)
def test_span_test(num_frames, count, expected):
    assert RULES["span"].test(num_frames, count) == expected


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("num_frames", "count"), [(100, 16), (33, 8), (16, 16), (5, 8), (1, 4)])
def test_training_draws_stay_inside_and_ascend(rule, num_frames, count):
    rng = np.random.default_rng(0)
    for _ in range(50):
        drawn = RULES[rule].train(num_frames, count, rng)
        assert len(drawn) == count and (drawn == sorted(drawn) or rule == "dense")
        assert set(drawn) <= set(range(num_frames))


def test_segment_training_takes_one_frame_of_each_segment():
    drawn = np.array([RULES["segment"].train(40, 4, np.random.default_rng(s)) for s in range(300)])
    for i in range(4):
        assert set(drawn[:, i]) == set(range(10 * i, 10 * i + 10))


def test_a_video_shorter_than_the_clip_repeats_its_first_frame_in_training():
    assert RULES["segment"].train(5, 8, np.random.default_rng(0)) == [0] * 8
