"""Small instances of the official data sets, from their annotations to a batch."""

import json
import subprocess
import sys

import numpy as np
import pytest
from datasets import FRAMES, jpegs, names, place, source

from ffn import Preprocess
from trainers import evaluate, run
from trainers.check import check
from trainers.data.clips import Clips, train_batches
from trainers.data.files import DataError
from trainers.prepare import prepare


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def something_v1(root, clip):
    write(root / "something-something-v1-labels.csv", "Moving a cup\nHolding, a cup\n")
    write(root / "something-something-v1-train.csv", '1;Moving a cup\n2;"Holding, a cup"\n9;Moving a cup\n')
    write(root / "something-something-v1-validation.csv", "3;Moving a cup\n")
    for i in (1, 2, 3):
        jpegs(root / f"20bn-something-something-v1/{i}")
    return ("Holding, a cup", "Moving a cup"), {  # in alphabetical order, as the released checkpoints
        1: ["20bn-something-something-v1/1", "20bn-something-something-v1/2"]
    }


def something_v2(root, clip):
    def items(*pairs):
        return json.dumps([{"id": i, "template": template} for i, template in pairs])

    write(
        root / "labels/something-something-v2-labels.json",
        '{"Holding something": "1", "Moving something": "0"}',
    )
    write(
        root / "labels/something-something-v2-train.json",
        items(("1", "Moving [something]"), ("2", "Holding [something]")),
    )
    write(root / "labels/something-something-v2-validation.json", items(("3", "Moving [something]")))
    place(clip, *(root / f"20bn-something-something-v2/{i}.webm" for i in (1, 2, 3)))
    return ("Moving something", "Holding something"), {
        1: ["20bn-something-something-v2/1.webm", "20bn-something-something-v2/2.webm"]
    }


def kinetics(root, clip):
    head = "label,youtube_id,time_start,time_end,split\n"
    write(root / "train.csv", f"{head}high jump,-a_b,1,11,train\nabseiling,c d,0,10,train\n")
    write(root / "val.csv", f"{head}abseiling,e,3,13,val\nabseiling,gone,3,13,val\n")
    place(clip, root / "train/high jump/-a_b_000001_000011.mp4", root / "train/abseiling/c d_000000_000010.mp4")
    place(clip, root / "val/abseiling/e_000003_000013.mp4")
    return ("abseiling", "high jump"), {
        1: ["train/high jump/-a_b_000001_000011.mp4", "train/abseiling/c d_000000_000010.mp4"]
    }


def hmdb51(root, clip):
    for label in ("brush_hair", "run"):
        for fold, parts in enumerate(("1 2 0", "2 1 0", "0 1 2"), 1):
            lines = "".join(f"{label} {i}.avi {part} \n" for i, part in enumerate(parts.split()))
            write(root / f"testTrainMulti_7030_splits/{label}_test_split{fold}.txt", lines)
        place(clip, *(root / f"videos/{label}/{label} {i}.avi" for i in range(3)))
    return ("brush_hair", "run"), {
        fold: [f"videos/{label}/{label} {i}.avi" for label in ("brush_hair", "run")]
        for fold, i in ((1, 0), (2, 1), (3, 1))
    }


BUILD = {"ssv1": something_v1, "ssv2": something_v2, "kinetics": kinetics, "hmdb51": hmdb51}


@pytest.mark.parametrize("data", BUILD)
def test_from_annotations_to_a_batch(tmp_path, clip, data, capsys):
    classes, folds = BUILD[data](tmp_path, clip)
    prepare(data, tmp_path, workers=1)
    assert ("not there and left out" in capsys.readouterr().out) is (data in ("ssv1", "kinetics"))
    assert check(data, tmp_path, min_frames=2, fold=1, workers=1)["bad"] == {}
    for fold, expected in folds.items():
        train = source(data, tmp_path, fold=fold)
        assert train.classes == classes and names(train) == expected
        assert {entry.num_frames for entry in train.entries} == {FRAMES}
    assert len(source(data, tmp_path, "val")) >= 1
    clips = Clips(train, (2, 4), Preprocess(16, 18), seed=0, epoch=0, augment="multiscale")
    batch = next(iter(train_batches(clips, 2, 0)))
    assert batch.failures == [] and batch.clips[4].shape == (2, 4, 16, 16, 3)
    assert sorted(batch.labels.tolist()) == [0, 1]
    train_and_evaluate(data, tmp_path, capsys)


def train_and_evaluate(data, root, capsys):
    where = ["--data", data, "--data-root", str(root), "--workers", "0", "--device", "cpu"]
    small = ["--size", "32", "--frames", "2", "4", "--epochs", "1", "--batch-size", "2", "--precision", "fp32"]
    out = root / ".run"  # hidden: in a folder of classes another one would be a class
    assert run.main([*where, *small, "--augment", "multiscale", "--out", str(out)]) == 0
    capsys.readouterr()
    assert evaluate.main([str(out / "best.safetensors"), *where, "--frames", "2", "4", "--no-costs"]) == 0
    assert "| .run" in capsys.readouterr().out


def test_extracted_frames_equal_decoded_ones_and_a_rerun_goes_on(tmp_path, clip):
    something_v2(tmp_path, clip)
    place(clip, tmp_path / "20bn-something-something-v2/2.webm")
    (tmp_path / "20bn-something-something-v2/2.webm").write_bytes(clip.read_bytes()[:-300])
    partial = tmp_path / "frames/20bn-something-something-v2/.1.partial"
    partial.mkdir(parents=True)
    (partial / "000099.jpg").write_bytes(b"left by a killed run")
    prepare("ssv2", tmp_path, extract=True, workers=1)
    train = source("ssv2", tmp_path)
    assert names(train) == ["frames/20bn-something-something-v2/1", "20bn-something-something-v2/2.webm"]
    folder = tmp_path / train.name(0)
    assert sorted(path.name for path in folder.iterdir()) == [f"{i:06d}.jpg" for i in range(1, FRAMES + 1)]
    levels = train.open(0).read(range(FRAMES)).mean((1, 2, 3))
    assert np.rint((levels - 20) / 4).astype(int).tolist() == list(range(FRAMES))
    assert not partial.exists()
    place(clip, tmp_path / "20bn-something-something-v2/2.webm")  # repaired
    before = (folder / "000001.jpg").stat().st_mtime_ns
    prepare("ssv2", tmp_path, extract=True, workers=1)
    assert names(source("ssv2", tmp_path))[1] == "frames/20bn-something-something-v2/2"
    assert (folder / "000001.jpg").stat().st_mtime_ns == before


def test_folder(tmp_path, clip, capsys):
    place(clip, *(tmp_path / label / f"{i}.mp4" for label in "ab" for i in range(5)))
    train_and_evaluate("folder", tmp_path, capsys)
    before = names(source("folder", tmp_path, "val"))
    prepare("folder", tmp_path, workers=1)
    assert (
        names(source("folder", tmp_path, "val")) == before == names(source("folder", tmp_path, "val", seed=9))
    )
    (tmp_path / "train.txt").unlink()
    with pytest.raises(DataError, match=r"val.txt is there already and counts more than the folders"):
        prepare("folder", tmp_path, workers=1)


def test_folder_keeps_the_order_of_its_classes(tmp_path, clip):
    place(clip, *(tmp_path / label / f"{i}.mp4" for label in "ab" for i in range(2)))
    write(tmp_path / "category.txt", "b\na\n")
    before = source("folder", tmp_path)
    prepare("folder", tmp_path, workers=1)
    after = source("folder", tmp_path)
    assert after.classes == before.classes == ("b", "a") and names(after) == names(before)


def test_missing_annotations_and_clips(tmp_path):
    command = [sys.executable, "-m", "trainers.prepare", "ssv1", "--data-root", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "holds no something-something-v1-labels.csv: download the official annotations" in done.stderr
    write(tmp_path / "testTrainMulti_7030_splits/run_test_split1.txt", "x.avi 1\n")
    for fold in (2, 3):
        write(tmp_path / f"testTrainMulti_7030_splits/run_test_split{fold}.txt", "x.avi 1\n")
    with pytest.raises(DataError, match="holds none of the clips, run/x for one"):
        prepare("hmdb51", tmp_path, workers=1)


def test_videos_that_would_share_a_folder_of_frames_are_refused(tmp_path, clip):
    place(clip, tmp_path / "a/x.mp4", tmp_path / "a/x.mov", tmp_path / "a/y.mp4", tmp_path / "b/x.mp4")
    with pytest.raises(DataError, match=r"a/x.mov and a/x.mp4 would be extracted to one folder"):
        prepare("folder", tmp_path, extract=True, workers=1)


def test_an_interrupted_extraction_of_class_folders_goes_on(tmp_path, clip):
    place(clip, *(tmp_path / name / f"{i}.mp4" for name in "ab" for i in range(2)))
    jpegs(tmp_path / "frames/a/0")  # as far as it came
    prepare("folder", tmp_path, extract=True, workers=1)
    assert source("folder", tmp_path).classes == ("a", "b")
