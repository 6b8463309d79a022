"""Small but real instances of every layout: prepared, checked, read, and what is said of what is wrong."""

import csv
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from ffn.preprocess import Preprocess
from ffn.video import VideoError
from trainers.data import SOURCES, create_source
from trainers.data import clips as loading
from trainers.data.clips import Clips, train_batches
from trainers.data.frame_folder import TEMPLATES

SMALL = Preprocess(size=32, resize=32)


@pytest.fixture(scope="module")
def film(tmp_path_factory, encode, numbered):
    """A real video, made once: 20 frames whose brightness tells their number."""
    return encode(tmp_path_factory.mktemp("film") / "film.mp4", numbered(20)).read_bytes()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
    return path


def put_frames(folder, template, count=20):
    for i in range(count):
        image = np.full((48, 64, 3), 20 + 4 * i, np.uint8)
        put(folder / template.format(i + 1), cv2.imencode(".jpg", image)[1].tobytes())


def command(module, *arguments):
    line = [sys.executable, "-m", f"trainers.{module}", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def one_batch(source, counts=(2, 4), **options):
    clips = Clips(source, counts, SMALL, epoch=0, **options)
    return next(iter(train_batches(clips, len(source), workers=0)))


# ---------------------------------------------------------------- layouts


def make_ssv1(root, film):
    for i in range(4):
        put_frames(root / "frames" / str(i), TEMPLATES[0])
    put(root / "something-something-v1-train.csv", "0;Holding something\n1;Bending something\n")
    put(root / "something-something-v1-validation.csv", "2;Holding something\n3;Bending something\n")


def make_ssv2(root, film):
    for i in range(4):
        put(root / f"{i}.mp4", film)
    entry = '{"id": "%d", "template": "%s [something]"}'
    for split, first in (("train", 0), ("validation", 2)):
        entries = [entry % (first, "Holding"), entry % (first + 1, "Bending")]
        put(root / f"something-something-v2-{split}.json", f"[{', '.join(entries)}]")


def make_kinetics(root, film):
    for split, first in (("train", 0), ("val", 2)):
        lines = ["label,youtube_id,time_start,time_end,split"]
        for i, name in ((first, "bending something"), (first + 1, "holding something")):
            put(root / name / f"abc{i}_000005_000015.mp4", film)
            lines.append(f"{name},abc{i},5,15,{split}")
        put(root / f"{split}.csv", "\n".join(lines))


def make_hmdb51(root, film):
    for name in ("bend_it", "hold"):
        for i in range(3):
            put(root / "videos" / name / f"{name} clip{i}.avi", film)  # by its content, whatever it is called
        uses = f"{name} clip0.avi 1 \n{name} clip1.avi 2 \n{name} clip2.avi 0 \n"
        put(root / "splits" / f"{name}_test_split2.txt", uses)


MAKERS = {"ssv1": make_ssv1, "ssv2": make_ssv2, "kinetics": make_kinetics, "hmdb51": make_hmdb51}


@pytest.mark.parametrize("extract", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_official_data_sets(name, extract, tmp_path, film):
    MAKERS[name](tmp_path, film)
    options = ["--annotations", tmp_path / "splits", "--fold", 2] if name == "hmdb51" else []
    done = command("prepare", name, "--data-root", tmp_path, "--workers", 1, *options, *["--extract"] * extract)
    assert done.returncode == 0 and "0 videos left out" in done.stdout, done.stderr
    for split, first in (("train", 0), ("val", 2)):
        source = create_source(name, split, root=tmp_path, size=32, fold=2)
        assert len(source) == 2 and {source.label(0), source.label(1)} == {0, 1}
        assert source.classes[0].lower().startswith("bend") and source.open(0).num_frames == 20
        levels = source.open(first % 2).read([0, 7, 19])[:, 0, 0].mean(-1)
        assert np.allclose(levels, [20, 48, 96], atol=6)
    if extract:
        assert source.open(0).path.is_dir()
    batch = one_batch(source)
    assert (
        batch.clips[4].shape == (2, 4, 32, 32, 3) and batch.clips[4].dtype == torch.uint8 and not batch.failures
    )


def make_folders(root, film, *splits):
    for split in splits:
        for name in ("hop", "skip"):
            for i in range(5):
                put(root / split / name / f"clip {i}.mp4", film)


def test_folders_with_their_own_split(tmp_path, film):
    make_folders(tmp_path, film, "train", "validation")
    train, val = (create_source("folder", split, root=tmp_path, size=32) for split in ("train", "val"))
    assert (len(train), len(val), train.classes, val.classes) == (10, 10, ("hop", "skip"), ("hop", "skip"))
    assert train.name(0) == "train/hop/clip 0.mp4" and val.name(9) == "validation/skip/clip 4.mp4"


def test_folders_split_by_seed(tmp_path, film):
    make_folders(tmp_path, film, ".")
    splits = {
        seed: [create_source("folder", split, root=tmp_path, size=32, seed=seed) for split in ("train", "val")]
        for seed in (0, 0, 1)
    }
    for train, val in splits.values():
        names = [{source.name(i) for i in range(len(source))} for source in (train, val)]
        assert (len(train), len(val)) == (8, 2) and not names[0] & names[1]
        assert {val.label(0), val.label(1)} == {0, 1}  # of every class
    assert {splits[0][1].name(i) for i in range(2)} != {splits[1][1].name(i) for i in range(2)}


def test_folder_becomes_a_csv_to_edit(tmp_path, film):
    make_folders(tmp_path, film, ".")
    assert command("prepare", "folder", "--data-root", tmp_path, "--workers", 1).returncode == 0
    for split in ("train", "val"):
        one, other = (create_source(data, split, root=tmp_path, size=32) for data in ("folder", "csv"))
        assert [one.name(i) for i in range(len(one))] == [other.name(i) for i in range(len(other))]
        assert [one.label(i) for i in range(len(one))] == [other.label(i) for i in range(len(other))]


def test_a_list_beside_unsorted_validation_clips(tmp_path, film):
    make_folders(tmp_path, film, "train")
    put(tmp_path / "validate" / "a b.mp4", film)
    put(tmp_path / "validate.txt", "0\t1\ta b.mp4\n")
    val = create_source("folder", "val", root=tmp_path, size=32)
    assert (val.name(0), val.label(0), val.open(0).num_frames) == ("validate/a b.mp4", 1, 20)


def test_so_many_clips_of_every_class(tmp_path, film):
    make_folders(tmp_path, film, "train", "val")
    source = create_source("folder", "train", root=tmp_path, size=32, clips=4)
    assert [source.label(i) for i in range(len(source))] == [0, 0, 1, 1]


# ---------------------------------------------------------------- what is wrong


@pytest.fixture
def listed(tmp_path, film):
    """A data set of list files, one clip in a folder with spaces; returns a function that adds a line."""
    put(tmp_path / "a b" / "clip 1.mp4", film)
    put_frames(tmp_path / "frames", TEMPLATES[1])
    put(tmp_path / "category.txt", "hop\nskip\n")
    put(tmp_path / "val.txt", "a b/clip 1.mp4 20 1\n")
    lines = ["a b/clip 1.mp4 20 1", "frames 20 0"]

    def source(*more, **options):
        put(tmp_path / "train.txt", "\n".join([*lines, *more]) + "\n\n")
        return create_source("ssv2", "train", root=tmp_path, size=32, **options)

    return source


def test_a_path_may_hold_spaces(listed):
    source = listed()
    assert len(source) == 2 and source.name(0) == "a b/clip 1.mp4" and source.open(0).num_frames == 20


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("frames 20 2", "line 3: label 2 is not one of the 2 classes"),
        ("frames 20 -1", "line 3: label -1 is not one of the 2 classes"),
        ("frames twenty 1", "line 3: expected 'path num_frames label', found 'frames twenty 1'"),
        ("20 1", "line 3: expected"),
    ],
)
def test_a_line_that_is_wrong_is_named(line, sentence, listed):
    with pytest.raises(ValueError, match=sentence):
        listed(line)


def test_unknown_class(tmp_path, film):
    make_folders(tmp_path, film, "train", "val")
    put(tmp_path / "val" / "jump" / "x.mp4", film)
    with pytest.raises(ValueError, match=r"has a class that .*train has not: jump"):
        create_source("folder", "val", root=tmp_path, size=32)
    put(tmp_path / "train.csv", "path,label\nval/jump/x.mp4,jump\nval/hop/clip 0.mp4,hop\n")
    put(tmp_path / "val.csv", "path,label\nval/jump/x.mp4,leap\n")
    with pytest.raises(ValueError, match=r"val\.csv, line 2: class 'leap' is not among those"):
        create_source("csv", "val", root=tmp_path, size=32)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "needs a folder of clips for each class"),
        ({"hop/x.txt": "", "skip/x.txt": ""}, "lists no clips"),
        ({"train/hop/x.mp4": "", "train/skip/x.mp4": ""}, "there is no .*val"),
    ],
)
def test_folders_that_hold_nothing(files, sentence, tmp_path):
    for name, content in files.items():
        put(tmp_path / name, content)
    with pytest.raises(ValueError, match=sentence):
        for split in ("train", "val"):
            create_source("folder", split, root=tmp_path, size=32)


def test_no_data_root_and_no_such_data(tmp_path):
    with pytest.raises(ValueError, match="add --data-root DIR"):
        create_source("folder", "train", size=32)
    with pytest.raises(ValueError, match="there is no data set named 'ucf'"):
        create_source("ucf", "train", size=32)
    with pytest.raises(ValueError, match=r"category\.txt: run python -m trainers.prepare first"):
        create_source("ssv1", "train", root=tmp_path, size=32)
    assert set(SOURCES) == {"motion", "folder", "csv", "ssv1", "ssv2", "kinetics", "hmdb51"}


def break_set(root, film):
    """Three bad clips among good ones: cut off, a frame missing, an empty folder."""
    put(root / "cut.mp4", film[: len(film) // 2])
    put_frames(root / "gap", TEMPLATES[1])
    (root / "gap" / TEMPLATES[1].format(3)).unlink()
    (root / "empty").mkdir()
    return "cut.mp4 20 0", "gap 20 1", "empty 20 1"


def test_bad_clips_are_left_out_by_name_and_never_swapped(listed, tmp_path, film):
    source = listed(*break_set(tmp_path, film))
    batch = one_batch(source, (20,))  # every frame
    assert sorted(batch.indices.tolist()) == [0, 1]
    assert all(source.label(i) == label for i, label in zip(batch.indices, batch.labels, strict=True))
    told = "\n".join(sorted(batch.failures))
    assert len(batch.failures) == 3
    for part in ("cut.mp4: cut.mp4 is", "000003.jpg is missing", "empty holds no first frame"):
        assert part in told
    for bad, what in ((2, "cut"), (4, "first frame")):
        with pytest.raises(VideoError, match=what):
            source.open(bad)


def test_a_batch_may_be_all_bad(listed, tmp_path, film):
    source = listed(*break_set(tmp_path, film))
    source.items = source.items[2:]
    batch = one_batch(source, (20,))
    assert batch.clips == {} and len(batch.labels) == 0 and len(batch.failures) == 3


def test_check_reports_and_training_reads_it(listed, tmp_path, film):
    listed(*break_set(tmp_path, film))
    done = command("check", "ssv2", "--data-root", tmp_path, "--frames", 21, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert "6 clips: 3 unreadable" in done.stdout and "cut.mp4" in done.stdout
    report = json.loads((tmp_path / "check.json").read_text())
    assert set(report["unreadable"]) == {"cut.mp4", "gap", "empty"} and report["short"]["frames"] == 20
    source = listed(*("cut.mp4 20 0", "gap 20 1", "empty 20 1"), max_bad=0.6)
    assert len(source) == 2 and source.skipped == ["cut.mp4", "gap", "empty"]
    with pytest.raises(ValueError, match=r"3 of 5 clips .* unreadable \(60%, more than --max-bad 0.5\)"):
        listed(*("cut.mp4 20 0", "gap 20 1", "empty 20 1"), max_bad=0.5)
    (tmp_path / "cut.mp4").write_bytes(film)  # mended: a new check forgets it
    assert "5 unreadable" not in command("check", "ssv2", "--data-root", tmp_path, "--workers", 1).stdout
    assert "cut.mp4" not in json.loads((tmp_path / "check.json").read_text())["unreadable"]


@pytest.mark.slow
def test_a_run_over_bad_clips_counts_them(listed, tmp_path, film):
    listed(*break_set(tmp_path, film), *["a b/clip 1.mp4 20 1"] * 3)
    options = ["--data", "ssv2", "--data-root", tmp_path, "--size", 32, "--frames", 2, 4, "--epochs", 1]
    options += ["--batch-size", 4, "--workers", 1, "--device", "cpu", "--out", tmp_path / "run"]
    done = command("run", *options)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "run.log").read_text()
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["progress"]
    assert log.count("left out: ") == state["bad_clips"] >= 2  # empty and cut; the gap may not be drawn


def test_prepare_says_what_is_missing(tmp_path, film):
    put(tmp_path / "something-something-v1-train.csv", "7;Holding something\n")
    done = command("prepare", "ssv1", "--data-root", tmp_path)
    assert done.returncode == 2 and "something-something-v1-validation.csv" in done.stderr
    put(tmp_path / "something-something-v1-validation.csv", "8;Holding something\n")
    done = command("prepare", "ssv1", "--data-root", tmp_path)
    assert done.returncode == 2 and "none of the 2 annotated videos" in done.stderr
    put_frames(tmp_path / "7", TEMPLATES[0], 3)
    done = command("prepare", "ssv1", "--data-root", tmp_path, "--workers", 1)
    assert done.returncode == 0 and "left out: 8 is not under" in done.stdout


def test_extraction_is_whole_or_not_at_all(tmp_path, film):
    make_folders(tmp_path, film, ".")
    put(tmp_path / "hop" / "clip 0.mp4", film[: len(film) // 2])
    done = command("prepare", "folder", "--data-root", tmp_path, "--extract", "--workers", 1)
    assert "clip 0.mp4 is" in done.stdout and not (tmp_path / "hop" / "clip 0").exists()
    assert len(list((tmp_path / "hop" / "clip 1").glob("img_*.jpg"))) == 20
    kept = (tmp_path / "hop" / "clip 1" / "img_00001.jpg").stat().st_mtime_ns
    assert command("prepare", "folder", "--data-root", tmp_path, "--extract", "--workers", 1).returncode == 0
    assert (tmp_path / "hop" / "clip 1" / "img_00001.jpg").stat().st_mtime_ns == kept  # resumed, not redone
    with (tmp_path / "train.csv").open() as file:
        assert sum(row["path"].startswith("hop/") for row in csv.DictReader(file)) == 4  # each clip once


# ---------------------------------------------------------------- batches


class Numbered:
    """Ten clips of 32 frames in memory; a pixel tells clip and frame."""

    classes = ("a", "b")

    def __len__(self):
        return 10

    def label(self, i):
        return i % 2

    def name(self, i):
        return str(i)

    def open(self, i):
        return self.Clip(i)

    class Clip:
        num_frames, fps = 32, 30.0

        def __init__(self, i):
            self.i = i

        def read(self, indices):
            frames = np.zeros((len(indices), 40, 60, 3), np.uint8)
            frames[..., 0], frames[..., 1] = self.i, np.array(indices)[:, None, None]
            frames[..., 2] = np.arange(60, dtype=np.uint8) * 4
            return frames


def batches(epoch=0, augment="none", size=4, **how):
    clips = Clips(Numbered(), (2, 8), SMALL, seed=1, epoch=epoch, augment=augment, flip=augment != "none")
    return list(train_batches(clips, size, 0, **how))


@pytest.mark.parametrize("augment", ["none", "multiscale", "short_side", "randaugment"])
def test_samples_depend_on_seed_epoch_and_index_alone(augment):
    whole, again, later = batches(augment=augment), batches(augment=augment, first=1), batches(1, augment)
    side = 28 if augment == "short_side" else 32
    assert whole[0].clips[8].shape == (4, 8, side, side, 3) and len(whole) == 2
    for count in (2, 8):
        assert torch.equal(whole[1].clips[count], again[0].clips[count])
        assert not torch.equal(whole[0].clips[count], later[0].clips[count])
    halves = [batches(augment=augment, rank=rank, world=2) for rank in range(2)]
    for batch, one, other in zip(whole, *halves, strict=True):
        joined = torch.stack([one.clips[8], other.clips[8]], 1).flatten(0, 1)
        assert torch.equal(batch.clips[8], joined)


@pytest.mark.parametrize("augment", ["multiscale", "short_side"])
def test_every_frame_of_a_sample_is_cropped_alike(augment):
    for batch in batches(augment=augment):
        columns = batch.clips[8][..., 2]  # what tells where a crop lies
        assert (columns == columns[:, :1]).all()
        assert torch.equal(batch.clips[2][..., 2][:, 0], columns[:, 0])  # at every frequency


def test_repeated_augmentation_draws_each_video_anew():
    (first, *_) = batches(augment="multiscale", repeats=2)
    assert first.indices.tolist() == [i for i in first.indices[::2].tolist() for _ in range(2)]
    assert not torch.equal(first.clips[8][0], first.clips[8][1])
    assert len(batches(repeats=2)) == 5


@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_test_clip_counts_once(world):
    clips = Clips(Numbered(), (2,), SMALL)
    shards = [b.indices for rank in range(world) for b in loading.test_batches(clips, 4, 0, rank, world)]
    assert sorted(torch.cat(shards).tolist()) == list(range(10))


def test_views_and_crops():
    clips = Clips(Numbered(), (2,), SMALL, views=2, crops=3)
    batch = next(iter(loading.test_batches(clips, 2, 0)))
    assert batch.clips[2].shape == (12, 2, 32, 32, 3) and batch.labels.shape == (2,)
    frames = batch.clips[2][:6, :, 0, 0, 1].tolist()
    assert frames == [[5, 21]] * 3 + [[10, 26]] * 3
    left, centre, right = batch.clips[2][:3, 0, 16, 16, 2].tolist()
    assert left < centre < right
