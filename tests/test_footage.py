"""Motion's classes over real pictures."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from trainers.data import create_source
from trainers.data.files import DataError
from trainers.data.motion import CLASSES, write_clip


@pytest.fixture
def pictures(tmp_path):
    """A photograph of one bright spot, and a video that gets brighter."""
    spot = np.full((300, 400, 3), 60, np.uint8)
    cv2.circle(spot, (200, 150), 40, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "spot.jpg"), cv2.GaussianBlur(spot, (0, 0), 8))
    (tmp_path / "videos").mkdir()
    write_clip(
        tmp_path / "videos" / "dawn.mp4",
        np.broadcast_to(np.linspace(40, 200, 40, dtype=np.uint8)[:, None, None, None], (40, 96, 128, 3)),
        12,
    )
    return tmp_path


def footage(root, **options):
    return create_source("footage", "val", root=root, size=64, **options)


def drift(frames):
    """By how many pixels to the right the picture's content moves between its first and last frames."""
    grey = [frame.mean(2).astype(np.float32) for frame in frames]
    window = cv2.createHanningWindow((64, 64), cv2.CV_32F)
    return sum(cv2.phaseCorrelate(a, b, window)[0][0] for a, b in pairwise(grey))


def test_classes_and_pictures_come_in_turn(pictures):
    source = footage(pictures, clips=63)
    assert len(source) == 63 and source.classes == CLASSES
    assert [source.label(i) for i in (0, 20, 21)] == [0, 20, 0]
    assert "spot.jpg" in source.name(0) and "dawn.mp4" in source.name(21) and "spot.jpg" in source.name(42)
    clip = source.open(5)
    assert clip.read(range(32)).shape == (32, 64, 64, 3)
    np.testing.assert_array_equal(clip.read([7]), source.open(5).read([3, 7])[1:])


def test_the_camera_pans_over_a_photograph(pictures):
    (pictures / "videos" / "dawn.mp4").unlink()
    source = footage(pictures, clips=84)
    left, right = (CLASSES.index(f"camera panning {side}") for side in ("left", "right"))
    for turn in range(4):
        assert drift(source.open(21 * turn + left).read(range(0, 32, 4))) > 2
        assert drift(source.open(21 * turn + right).read(range(0, 32, 4))) < -2


def test_a_video_goes_on_playing(pictures):
    (pictures / "spot.jpg").unlink()
    frames = footage(pictures, clips=21).open(CLASSES.index("something staying still")).read(range(32))
    assert frames[-1].mean() > frames[0].mean() + 20


def test_mistakes(pictures, tmp_path_factory):
    with pytest.raises(DataError, match="not to train on"):
        create_source("footage", "train", root=pictures, size=64)
    with pytest.raises(DataError, match="holds no photographs"):
        footage(tmp_path_factory.mktemp("empty"))
    with pytest.raises(DataError, match="--data-root"):
        footage(None)
    (pictures / "spot.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"spot\.jpg cannot be read"):
        footage(pictures).open(0).read([0])
