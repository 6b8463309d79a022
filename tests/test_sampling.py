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
def test_training_draws_stay_inside_and_ascend(rule, num_frames, count):  # dense ones go around the end
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


@pytest.mark.parametrize(
    ("num_frames", "view", "views", "expected"),
    [
        (164, 0, 1, [50, 66, 82, 98]),  # the window of 64 in the middle
        (164, 0, 3, [0, 16, 32, 48]),
        (164, 2, 3, [100, 116, 132, 148]),
        (40, 0, 1, [0, 16, 32, 8]),  # shorter than the window: around the end
    ],
)
def test_dense(num_frames, view, views, expected):
    assert RULES["dense"].test(num_frames, 4, view, views) == expected


def test_views_divide_a_segment():
    assert [RULES["segment"].test(40, 2, view, 3) for view in range(3)] == [[5, 25], [10, 30], [15, 35]]
    assert [RULES["span"].test(41, 2, view, 3) for view in range(3)] == [[5, 25], [10, 30], [15, 35]]
