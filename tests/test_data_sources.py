"""Data sets on disk: every way to keep them is read, and every mistake is named."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from datasets import FRAMES, jpegs, names, place, source
from parity import SHARED

from ffn import Preprocess
from ffn.video import VideoError
from trainers.check import check
from trainers.data.clips import Clips
from trainers.data.clips import test_batches as every_clip
from trainers.data.files import DataError
from trainers.data.layouts import parse_line

ARID = SHARED / "data/arid6"


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("val", ["val", "valid", "validate", "validation", "test"])
def test_folders_of_classes(tmp_path, clip, val):
    place(clip, tmp_path / "train/b c/1.mp4", tmp_path / "train/a/2.mp4", tmp_path / val / "b c/3.mp4")
    train, held = source("folder", tmp_path), source("folder", tmp_path, "val")
    assert train.classes == held.classes == ("a", "b c")
    assert names(train) == ["train/a/2.mp4", "train/b c/1.mp4"] and names(held) == [f"{val}/b c/3.mp4"]
    assert [train.label(0), train.label(1), held.label(0)] == [0, 1, 1]
    assert train.open(0).num_frames == FRAMES


def test_one_folder_is_split_by_seed_class_by_class(tmp_path, clip):
    place(clip, *(tmp_path / label / f"{i}.mp4" for label in "ab" for i in range(10)), tmp_path / "c/0.mp4")
    train, val = (source("folder", tmp_path, split) for split in ("train", "val"))
    assert len(train) == 8 + 8 + 1 and sorted(map(val.label, range(4))) == [0, 0, 1, 1]
    assert not set(names(train)) & set(names(val))
    assert names(source("folder", tmp_path, "val")) == names(val)
    assert names(source("folder", tmp_path, "val", seed=1)) != names(val)
    shutil.rmtree(tmp_path / "a")
    assert set(names(source("folder", tmp_path, "val"))) < set(names(val))  # other classes stay as they were


def test_mistakes_in_folders(tmp_path, clip):
    with pytest.raises(DataError, match="name it with --data-root"):
        source("folder", None)
    with pytest.raises(DataError, match="there is no folder"):
        source("folder", tmp_path / "nothing")
    with pytest.raises(DataError, match="holds no folders of classes"):
        source("folder", tmp_path)
    place(clip, tmp_path / "train/a/1.mp4", tmp_path / "val/A/1.mp4")
    with pytest.raises(DataError, match=r"A is no class of train/ \(a\): rename or remove"):
        source("folder", tmp_path, "val")
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "train/empty").mkdir()
    with pytest.raises(DataError, match="empty holds no clips"):
        source("folder", tmp_path)


@pytest.mark.skipif(not ARID.is_dir(), reason="no real clips beside the project")
def test_a_real_data_set_with_lists_beside_its_folders():
    train, val = (source("folder", ARID, split) for split in ("train", "val"))
    assert train.classes == val.classes == ("Jump", "Run", "Sit", "Stand", "Turn", "Walk")
    assert (len(train), len(val), val.name(0)) == (150, 96, "validate/24.mp4")
    assert train.open(3).num_frames > 30 and val.open(3).num_frames > 30
    assert [len(source("folder", ARID / "train", split)) for split in ("train", "val")] == [120, 30]


# ---------------------------------------------------------------- lists


def lists(root, train, val="", classes="a\nb\n"):
    root.mkdir(exist_ok=True)
    for name, text in {"category.txt": classes, "train.txt": train, "val.txt": val or train}.items():
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("data", "template"),
    [
        ("ssv1", "{:05d}.jpg"),
        ("ssv2", "{:06d}.jpg"),
        ("kinetics", "image_{:05d}.jpg"),
        ("kinetics", "img_{:05d}.jpg"),
    ],
)
def test_frame_folders(tmp_path, data, template, clip):
    jpegs(tmp_path / "frames/my clip 7", template=template)
    place(clip, tmp_path / "videos/x.mp4")
    lists(tmp_path, f"frames/my clip 7 {FRAMES} 1\n\nvideos/x.mp4 0 0\n")
    train = source(data, tmp_path)
    assert (len(train), train.label(0), train.name(0)) == (2, 1, "frames/my clip 7")
    for i in range(2):  # files decode on the fly, with the same numbers
        frames = train.open(i).read([5, 0, 5])
        assert np.rint((frames.mean((1, 2, 3)) - 20) / 4).astype(int).tolist() == [5, 0, 5]


def test_folds(tmp_path):
    jpegs(tmp_path / "c", template="image_{:05d}.jpg")
    (tmp_path / "category.txt").write_text("a\nb\n")
    (tmp_path / "train1.txt").write_text("c 6 0\n")
    (tmp_path / "train2.txt").write_text("c 6 1\n")
    assert [source("hmdb51", tmp_path, fold=fold).label(0) for fold in (1, 2)] == [0, 1]
    with pytest.raises(DataError, match=r"holds no train3.txt: make the lists with python -m trainers.prepare"):
        source("hmdb51", tmp_path, fold=3)
    with pytest.raises(DataError, match="folds 1, 2 and 3, not 4"):
        source("hmdb51", tmp_path, fold=4)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a b/c 7 12 3", ("a b/c 7", 12, 3)),
        ("x.mp4 0 3", ("x.mp4", None, 3)),
        ("17\t3\ta b/c.mp4", ("a b/c.mp4", None, 3)),
    ],
)
def test_lines(line, expected):
    assert parse_line(line, "here") == expected


def test_mistakes_in_lists(tmp_path):
    lists(tmp_path, "c 6 0\nc 6 2\n")
    with pytest.raises(DataError, match=r"train.txt line 2: the label 2 of c lies outside 0 to 1"):
        source("ssv1", tmp_path)
    lists(tmp_path, "c 6 0\nc six 1\n")
    with pytest.raises(DataError, match=r"train.txt line 2 is 'c six 1': write it as 'path num_frames label'"):
        source("ssv1", tmp_path)
    lists(tmp_path, "\n")
    with pytest.raises(DataError, match=r"train.txt is empty"):
        source("ssv1", tmp_path)
    lists(tmp_path, "c 6 0\n")
    (tmp_path / "category.txt").unlink()
    with pytest.raises(DataError, match=r"needs a category.txt"):
        source("ssv1", tmp_path)


def test_one_list_without_the_other_is_refused(tmp_path, clip):
    place(clip, *(tmp_path / label / f"{i}.mp4" for label in "ab" for i in range(3)))
    (tmp_path / "valid.txt").write_text("a/0.mp4 0 0\nb/0.mp4 0 1\n")
    assert names(source("folder", tmp_path, "val")) == ["a/0.mp4", "b/0.mp4"]  # enough to evaluate on
    with pytest.raises(DataError, match=r"has valid.txt but no train.txt: add that, or remove valid.txt"):
        source("folder", tmp_path)


def test_bad_clips_name_file_and_line(tmp_path, clip):
    jpegs(tmp_path / "gap")
    (tmp_path / "gap/00003.jpg").unlink()
    jpegs(tmp_path / "broken")
    (tmp_path / "broken/00003.jpg").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    place(clip, tmp_path / "cut.mp4")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-300])
    lists(tmp_path, "gap 6 0\nbroken 6 0\nempty 6 0\ncut.mp4 6 0\nnowhere 6 0\n")
    train = source("ssv1", tmp_path)
    for i, sentence in enumerate(
        (
            "00003.jpg is missing: extract",
            "00003.jpg is damaged: extract",
            r"empty is empty: extract .*\(train.txt line 3\)",
            r"cut.mp4 is cut off, its end is missing: .*\(train.txt line 4\)",
            r"no video or frame folder .*nowhere: put it there, or unlist it \(train.txt line 5\)",
        )
    ):
        with pytest.raises(VideoError, match=sentence):
            train.open(i).read(range(6))
    batches = every_clip(Clips(train, (6,), Preprocess(16, 16)), 8, 0)
    batch = next(iter(batches))
    assert batch.clips == {} and len(batch.labels) == 0 and len(batch.failures) == 5
    assert batch.failures[0].startswith("gap: ")


# ---------------------------------------------------------------- CSV


def test_csv(tmp_path, clip):
    place(clip, tmp_path / "my clips/1.mp4", tmp_path / "2.mp4")
    table = tmp_path / "clips.csv"
    table.write_text('path,label,split\nmy clips/1.mp4,"jump, high",train\n2.mp4,run,train\n2.mp4,run,val\n')
    for root in (tmp_path, table):
        train, val = source("csv", root), source("csv", root, "val")
        assert train.classes == ("jump, high", "run")
        assert names(train) == ["my clips/1.mp4", "2.mp4"] and names(val) == ["2.mp4"]
    assert train.open(0).num_frames == FRAMES
    rows = [f"{i}.mp4,a,{split}" for i, split in enumerate(("train", "Val", "test"))]
    table.write_text("\n".join(["path,label,split", *rows]))
    assert names(source("csv", table, "val")) == ["1.mp4"], "test clips choose nothing where there are others"
    table.write_text("\n".join(["path,label,split", rows[0], rows[2]]))
    assert names(source("csv", table, "val")) == ["2.mp4"]
    table.write_text("\n".join(["path,label,split", *rows, "3.mp4,a,dev"]))
    with pytest.raises(DataError, match=r"clips.csv line 5: the split is 'dev': write one of train, "):
        source("csv", table)
    table.write_text("path,label\n" + "".join(f"{i}.mp4,a\n" for i in range(10)))
    assert [len(source("csv", table, split)) for split in ("train", "val")] == [8, 2]
    (tmp_path / "train.csv").write_text("path,label\n2.mp4,run\n")
    (tmp_path / "val.csv").write_text("path,label\n2.mp4,fly\n")
    with pytest.raises(DataError, match=r"val.csv line 2: 'fly' is no class \(run\)"):
        source("csv", tmp_path, "val")
    (tmp_path / "train.csv").write_text("file,class\n2.mp4,run\n")
    with pytest.raises(DataError, match=r"first line that names its columns: path,label"):
        source("csv", tmp_path)


# ---------------------------------------------------------------- check


def test_checked_clips_are_skipped_up_to_a_share(tmp_path, clip, encode, numbered):
    place(clip, *(tmp_path / split / "a" / f"{i}.mp4" for split in ("train", "val") for i in range(4)))
    (tmp_path / "train/a/1.mp4").write_bytes(clip.read_bytes()[:-300])
    (tmp_path / "train/a/2.mp4").write_bytes(b"")
    encode(tmp_path / "val/a/short.mp4", numbered(1, 24, 32))
    report = check("folder", tmp_path, min_frames=2, fold=1, workers=1)
    assert report == json.loads((tmp_path / "check.json").read_text()) and report["clips"] == 9
    assert set(report["bad"]) == {"train/a/1.mp4", "train/a/2.mp4", "val/a/short.mp4"}
    assert "is empty" in report["bad"]["train/a/2.mp4"]
    assert "1 frames are fewer than 2" in report["bad"]["val/a/short.mp4"]
    with pytest.raises(DataError, match=r"2 of 4 train clips are bad, more than the share of 0.05 you allow"):
        source("folder", tmp_path)
    train = source("folder", tmp_path, max_bad=0.5)
    assert train.skipped == ["train/a/1.mp4", "train/a/2.mp4"] and len(train) == 2
    assert train.open(0).num_frames == FRAMES  # as measured, without another pass over the file
    (tmp_path / "check.json").write_text("nonsense")
    with pytest.raises(DataError, match=r"is no report of trainers.check"):
        source("folder", tmp_path)


def test_check_as_a_command(tmp_path, clip):
    place(clip, tmp_path / "a/1.mp4", tmp_path / "a/2.mp4")
    (tmp_path / "a/2.mp4").write_bytes(b"")
    command = [sys.executable, "-m", "trainers.check", "folder", "--workers", "1", "--data-root"]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "bad: a/2.mp4: 2.mp4 is empty" in done.stdout, done.stderr
    assert "1 of 2 clips are bad; training leaves them out" in done.stdout
    done = subprocess.run([*command, tmp_path / "no"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith("trainers.check: there is no folder")


def test_category_file_orders_the_classes_of_a_folder(tmp_path, clip):
    place(clip, *(tmp_path / name / f"{i}.mp4" for name in ("sit", "jump") for i in range(2)))
    assert source("folder", tmp_path).classes == ("jump", "sit")
    (tmp_path / "category.txt").write_text("sit\njump\n")
    assert source("folder", tmp_path).classes == ("sit", "jump")
    (tmp_path / "category.txt").write_text("sit\nrun\n")
    with pytest.raises(DataError, match=r"category.txt and the folders in .* differ in jump"):
        source("folder", tmp_path)
