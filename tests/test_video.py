"""Decoding: the right frames of every kind of file, one sentence for every kind that is none."""

import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ffn.sampling import RULES
from ffn.video import EndsEarly, Limits, VideoError, open_video, preload

ASL = Path(__file__).parents[2] / "shared/data/asl"


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers of ``numbered`` frames, read back from their brightness."""
    return np.rint((frames.mean((1, 2, 3)) - 20) / 4).astype(int).tolist()


def some_times(count: int) -> np.ndarray:
    """Milliseconds: half of the frames fast, half very slow."""
    return np.cumsum(np.r_[0, np.full(count // 2, 33), np.full(count - count // 2 - 1, 400)])


FILES = {
    "h264.mp4": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.mov": {},
    "transport.ts": {},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "from-a-browser.webm": {"codec": "libvpx", "container": "webm", "options": {"live": "1"}},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "faststart.mp4": {"options": {"movflags": "faststart"}},
    "varying.mp4": {"times": some_times(40)},
    "varying.mkv": {"times": some_times(40)},
    "varying.webm": {"codec": "libvpx", "times": some_times(40)},
}


@pytest.mark.parametrize("name", FILES)
def test_frames_by_number(tmp_path, encode, numbered, name):
    video = open_video(encode(tmp_path / name, numbered(40), **FILES[name]))
    assert (video.num_frames, video.width, video.height) == (40, 64, 48)
    seconds = some_times(40)[-1] / 1e3 if "varying" in name else 39 / 30
    assert video.seconds == pytest.approx(seconds * 40 / 39, rel=0.02)
    wanted = [39, 0, 7, 7, 21, 38]
    assert numbers(video.read(wanted)) == wanted


def test_frames_outside_the_video(tmp_path, encode, numbered):
    video = open_video(encode(tmp_path / "a.mp4", numbered(5)))
    for index in (-1, 5):
        with pytest.raises(IndexError, match="frames 0 to 4"):
            video.read([0, index])


def test_one_frame(tmp_path, encode, numbered):
    video = open_video(encode(tmp_path / "a.mp4", numbered(1)))
    assert video.num_frames == 1 and video.fps > 0
    assert numbers(preload(video, range(1, 33), "segment").read([0] * 5)) == [0] * 5


@pytest.mark.parametrize("height, width", [(37, 63), (48, 63), (2, 90), (90, 160)])
def test_odd_sizes_and_short_side(tmp_path, encode, numbered, height, width):
    video = open_video(encode(tmp_path / "a.webm", numbered(3, height, width), codec="libvpx-vp9"))
    assert video.read([0]).shape == (1, height, width, 3)
    small = video.read([2], short_side=24)
    assert min(small.shape[1:3]) == min(24, height, width) and numbers(small) == [2]


def test_colours_and_rotation(tmp_path, encode):
    frames = np.zeros((4, 48, 64, 3), np.uint8)
    frames[:, :24, :, 0] = 255  # red above, black below
    upright = open_video(encode(tmp_path / "a.mp4", frames)).read([1])[0]
    assert upright[8, 32, 0] > 200 > 60 > upright[8, 32, 2]
    video = open_video(encode(tmp_path / "phone.mp4", frames, rotation=90))
    turned = video.read([1])[0]
    assert turned.shape == (64, 48, 3) and (video.width, video.height) == (48, 64)
    left, right = turned[32, 6, 0], turned[32, 42, 0]
    assert abs(int(left) - int(right)) > 180


def trimmed(path: Path, first_second: float, seconds: float) -> Path:
    """Do as phones do that trim without encoding anew: hide the rest by the MP4's edit list."""
    data = bytearray(path.read_bytes())
    edit, media = data.index(b"elst") + 12, data.index(b"mdhd")
    (start,) = struct.unpack(">i", data[edit + 4 : edit + 8])
    (scale,) = struct.unpack(">I", data[media + 16 : media + 20])
    data[edit : edit + 8] = struct.pack(">Ii", round(seconds * 1000), start + round(first_second * scale))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("first, count", [(20, 30), (20, 40), (0, 15)])
def test_trimmed_on_a_phone(tmp_path, encode, numbered, first, count):
    """Hidden frames stay in the file, and some of them are not even known to be hidden until decoded."""
    path = trimmed(encode(tmp_path / "a.mp4", numbered(58)), first / 30, count / 30)
    clip = preload(open_video(path), [4], "segment")
    shown = min(count, 58 - first)
    assert abs(clip.num_frames - shown) <= 1
    wanted = RULES["segment"].test(clip.num_frames, 4)
    assert numbers(clip.read(wanted)) == [first + i for i in wanted]


def test_a_segment_of_a_varying_rate(tmp_path, encode, numbered):
    """Twenty-five frames in the first second, ten in the second: time tells what belongs to it, not number."""
    times = [*range(0, 1000, 40), *range(1000, 2000, 100)]  # 25 + 10
    video = open_video(encode(tmp_path / "a.mkv", numbered(35), times=times))
    first, second = (preload(video, [5], "segment", start=start, end=start + 1) for start in (0, 1))
    assert (first.num_frames, second.num_frames, second.first) == (25, 10, 25)
    assert second.seconds_at(3) == pytest.approx(1.3, abs=0.01)


@pytest.mark.parametrize("rule", RULES)
def test_preloaded_clip_reads_as_the_file(tmp_path, encode, numbered, rule):
    video = open_video(encode(tmp_path / "a.mp4", numbered(57)))
    clip = preload(video, range(1, 33), rule, short_side=32)
    for count in (1, 4, 7, 16, 32):
        indices = RULES[rule].test(57, count)
        assert numbers(clip.read(indices)) == indices
    with pytest.raises(KeyError):
        preload(video, [1], rule).read([1])


# ---------------------------------------------------------------- what is no video


def picture(path, kind):
    path.write_bytes(cv2.imencode(kind, np.zeros((64, 64, 3), np.uint8))[1].tobytes())


WRONG = {
    "empty.mp4": (lambda path: path.write_bytes(b""), "empty.mp4 is empty"),
    "text.mp4": (lambda path: path.write_text("no video at all\n" * 99), "text.mp4 is no video file"),
    "photo.mp4": (lambda path: picture(path, ".jpg"), "photo.mp4 is no video file"),
    "photo.png": (lambda path: picture(path, ".png"), "photo.png is no video file"),
    "noise.mp4": (lambda path: path.write_bytes(b"\0\0\0\x18ftypisom" + bytes(range(256)) * 9), "damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_no_video(tmp_path, name):
    write, sentence = WRONG[name]
    write(tmp_path / name)
    with pytest.raises(VideoError, match=sentence) as error:
        open_video(tmp_path / name)
    assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(VideoError, match="there is no file"):
        open_video(tmp_path / "nothing.mp4")


def test_audio_only(tmp_path, audio_only):
    with pytest.raises(VideoError, match="holds no video"):
        open_video(audio_only(tmp_path / "song.mp4"))


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4", "list.ffconcat", "list.txt"])
@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile real.ts\n"]
)
def test_playlists_cannot_reach_other_files(tmp_path, encode, numbered, name, text):
    encode(tmp_path / "real.ts", numbered(9))
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError, match="is no video file"):
        open_video(tmp_path / name)


@pytest.mark.parametrize("name", ["h264.mp4", "faststart.mp4", "vp9.webm", "mpeg4.avi"])
def test_cut_off(tmp_path, encode, numbered, name):
    path = encode(tmp_path / name, numbered(40), **FILES[name])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="is cut off, its end is missing"):
        open_video(path)


def test_damaged_within(tmp_path, encode):
    """As long as it should be, but the second half is gone: what is there is taken, as a shorter video."""
    frames = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    path = encode(tmp_path / "a.webm", frames, codec="libvpx")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + bytes(size - size // 2))
    clip = preload(open_video(path), [8], "segment")
    assert 10 < clip.num_frames < 30


def test_early_end_is_an_error_of_its_own(tmp_path, encode, numbered):
    video = replace(open_video(encode(tmp_path / "a.mp4", numbered(20))), num_frames=40)
    with pytest.raises(EndsEarly, match="only 20 of its 40 frames can be decoded") as error:
        video.read([3, 39])
    assert error.value.num_frames == 20
    with pytest.raises(EndsEarly, match="only 20 of its 22 frames"):
        replace(video, num_frames=22).read([21])  # nothing of it can be read
    assert preload(replace(video, num_frames=22), [1], "segment", start=0.66).num_frames == 1
    nearly = replace(video, num_frames=22)
    assert numbers(nearly.read([3, 21])) == [3, 3]  # the last one found stands in


def test_limits(tmp_path, encode, numbered):
    path = encode(tmp_path / "a.mp4", numbered(40, 32, 320))
    assert open_video(path, Limits(megabytes=1, seconds=1.5, pixels=32 * 320, aspect=10)).num_frames == 40
    for limits, sentence in (
        (Limits(megabytes=0.0001), "at most 0.0001 MB"),
        (Limits(seconds=1.2), "longer than 1.2 seconds"),
        (Limits(pixels=10_000), "frames of 320x32; at most 10,000 pixels"),
        (Limits(aspect=5), "at most 5 times the other"),
    ):
        with pytest.raises(VideoError, match=sentence):
            open_video(path, limits)


def test_real_clips():
    if not ASL.is_dir():
        pytest.skip("no real clips beside the project")
    for path in sorted(ASL.glob("*.mkv")):
        video = open_video(path)
        assert 1 < video.seconds < 5, path.name
        assert preload(video, [1, 16, 32], "segment", 64).frames.shape[1] == 64
