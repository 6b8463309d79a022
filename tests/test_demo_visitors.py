"""The demo under many visitors and bad files: the endpoints that programs call, limits, caches."""

import json
import random
import re
import struct
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from demo_networks import network, write_networks
from demo_page import ROOT, serving
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from safetensors.torch import save_file

import ffn
from app import child
from app.answers import Answers
from app.clips import Clips, Cut
from app.networks import Networks
from app.page import Handlers, Shown
from app.settings import Settings
from ffn.checkpoint import read_metadata
from ffn.video import VideoError
from trainers.data.motion import CLASSES

MARGIN_MB = 150  # of memory that comes and goes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("visitors")


@pytest.fixture(scope="module")
def app(folder):
    settings = write_networks(folder) | {"FFN_MAX_SECONDS": "10", "FFN_MAX_DECODE_SECONDS": "20"}
    settings |= {"FFN_CLIP_CACHE_MB": "20", "GRADIO_TEMP_DIR": str(folder / "uploads")}
    with serving(**settings) as app:
        yield app


@pytest.fixture(scope="module")
def url(app):
    return app[0]


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def clip(folder, encode):
    return moving(folder / "moving.mp4", encode, 0)


def moving(path, encode, seed):
    """A square that moves over noise, as H.264."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 120, (45, 120, 160, 3), np.uint8)
    y, (dx, dy) = int(rng.integers(10, 60)), rng.integers(-1, 2, 2)
    for i, frame in enumerate(frames):
        top, left = max(0, y + dy * i), max(0, 60 + dx * i)
        frame[top : top + 40, left : left + 40] = rng.integers(180, 255, 3)
    return encode(path, frames)


# ---------------------------------------------------------------- for programs


@pytest.mark.parametrize("named, met", [("my-run", "my-run"), ("gone", "tsm_tiny-ffn-motion")])
def test_the_network_that_a_visitor_meets_first(tmp_path, named, met):
    write_networks(tmp_path)
    folders = {"checkpoints": tmp_path / "shipped", "runs": tmp_path / "runs"}
    assert Networks(Settings(**folders, network=named)).first().name == met


def test_endpoints(client, clip):
    names = list(client.view_api(return_format="dict")["named_endpoints"])
    assert names == ["/networks", "/predict", "/sweep", "/budget", "/cascade"]
    networks = client.predict(api_name="/networks")
    # The first is the one that is taken without a name.
    assert [n["name"] for n in networks] == ["tsm_tiny-ffn-motion", "my-run", "tsm_tiny-plain16-motion"]
    video = handle_file(clip)
    answer = client.predict(video, frames=5, network="", api_name="/predict")
    assert (answer["frames"], answer["sub_network"], len(answer["indices"])) == (5, 4, 5)
    assert [row["class"] in CLASSES for row in answer["flexible"] + answer["plain"]] == [True] * 10
    again = client.predict(video, frames=16, network="", api_name="/predict")
    assert again["latency_ms"]["decoding"] == answer["latency_ms"]["decoding"], "decoded again"
    curve = client.predict(video, network="my-run", api_name="/sweep")
    assert [point["frames"] for point in curve] == list(range(1, 33))
    assert curve[31]["gflops"] > 3 * curve[7]["gflops"] > 0 and curve[0]["plain"] is None
    fit = client.predict(milliseconds=1e6, network="", api_name="/budget")
    assert fit["frames"] == 32 and fit["ms"] > 0
    stages = client.predict(video, confidence=1.0, network="", api_name="/cascade")
    assert [stage["frames"] for stage in stages] == [4, 8, 16]
    assert stages[0]["top"] and stages[2]["gflops"] == 4 * stages[0]["gflops"]


@pytest.mark.parametrize(
    ("endpoint", "values", "sentence"),
    [
        ("/predict", {"frames": 33, "network": ""}, "from 1 to 32, not 33"),
        ("/predict", {"frames": 2.5, "network": ""}, "whole number"),
        ("/predict", {"frames": 4, "network": "../../etc"}, "there is no network ../../etc"),
        ("/cascade", {"confidence": 7, "network": ""}, "from 0 to 1, not 7"),
        ("/budget", {"milliseconds": 1e-6, "network": ""}, "too small: 1 frame takes"),
    ],
)
def test_wrong_values_get_a_sentence(client, clip, endpoint, values, sentence):
    video = {} if endpoint == "/budget" else {"video": handle_file(clip)}
    with pytest.raises(AppError, match=re.escape(sentence)):
        client.predict(**video, **values, api_name=endpoint)


@pytest.mark.parametrize("meta", ["", ', "meta": {"_type": "gradio.FileData"}'])
def test_no_file_is_read_that_was_not_uploaded(url, meta):
    path = ROOT / "assets/examples/moving-closer.webm"
    body = f'{{"data": [{{"path": "{path}"{meta}}}, 4, ""]}}'.encode()
    call, kind = f"{url}/gradio_api/call/predict", {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(call, body, kind), timeout=60) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{call}/{event}", timeout=60) as reply:
        answer = reply.read()
    assert b"event: error" in answer and b"probability" not in answer


# ---------------------------------------------------------------- bad files


def patched(source: Path, path: Path, kind: bytes, offset: int, value: bytes) -> Path:
    """A copy of an MP4 whose box ``kind`` holds ``value`` at ``offset``: a header that lies."""
    data = bytearray(source.read_bytes())
    place = data.index(kind) + 4 + offset
    data[place : place + len(value)] = value
    path.write_bytes(data)
    return path


def bad_files(folder: Path, clip: Path, encode, numbered, audio_only) -> dict[str, tuple[Path, str]]:
    """A file of each kind, and what is said of it; an empty sentence: it may be understood after all."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video\n" * 50)
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    cv2.imwrite(str(folder / "photo.png"), numbered(1)[0])
    (folder / "photo.png").rename(folder / "photo.mp4")
    huge = np.zeros((1, 4320, 7680, 3), np.uint8)
    damaged = bytearray(clip.read_bytes())
    middle = slice(len(damaged) // 4, 3 * len(damaged) // 4)
    damaged[middle] = random.Random(0).randbytes(middle.stop - middle.start)
    (folder / "damaged.mp4").write_bytes(damaged)
    named = folder / "..%2F..%2F'quoted\" name;$(x).mp4"
    named.write_text("no video")
    big = struct.pack(">I", 2**31 - 1)
    return {
        "empty": (folder / "empty.mp4", "empty.mp4 is empty"),
        "text": (folder / "text.mp4", "text.mp4 is no video file"),
        "truncated": (folder / "cut.mp4", "cut.mp4 is cut off"),
        "image": (folder / "photo.mp4", "photo.mp4 is no video file"),
        "audio only": (audio_only(folder / "song.mp4"), "song.mp4 .* no video"),
        "one frame": (encode(folder / "one.mp4", numbered(1)), ""),
        "8K": (encode(folder / "8k.mp4", huge), "8k.mp4 has frames of 7680x4320"),
        "too long": (encode(folder / "long.mp4", numbered(22), fps=2), "longer than 10 seconds"),
        "10,000 fps": (patched(clip, folder / "fast.mp4", b"mdhd", 12, big), ""),
        "endless": (patched(clip, folder / "endless.mp4", b"mvhd", 16, big), ""),
        "zero size": (patched(clip, folder / "flat.mp4", b"avc1", 24, bytes(4)), ""),
        "wrong codec": (patched(clip, folder / "codec.mp4", b"avc1", -4, b"zzzz"), ""),
        "damaged": (folder / "damaged.mp4", ""),
        "name": (named, "no video file"),
    }


def test_bad_files_get_a_sentence_and_the_next_visitor_an_answer(
    app, client, clip, folder, encode, numbered, audio_only
):
    _, process = app
    corpus = folder / "corpus"
    corpus.mkdir()
    right = client.predict(handle_file(clip), frames=4, network="", api_name="/predict")
    for kind, (path, sentence) in bad_files(corpus, clip, encode, numbered, audio_only).items():
        try:
            client.predict(handle_file(path), frames=4, network="", api_name="/predict")
            assert not sentence, f"{kind}: was taken"
        except AppError as error:
            said = str(error)
            assert re.search(sentence, said), f"{kind}: {said}"
            assert "Traceback" not in said and "\n" not in said and said.endswith("."), f"{kind}: {said}"
        answer = client.predict(handle_file(clip), frames=4, network="", api_name="/predict")
        assert answer["flexible"] == right["flexible"], f"after {kind}"
    assert process.poll() is None


# ---------------------------------------------------------------- many at once


def memory_mb(process) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.slow
def test_twenty_visitors_get_what_one_alone_would(app, client, folder, encode):
    url, process = app
    clips = [moving(folder / f"{i}.mp4", encode, i) for i in range(20)]
    asked = [(path, 1 + 7 * i % 32, ("", "my-run")[i % 2]) for i, path in enumerate(clips)]

    def ask(visitor: Client, path, frames, network):
        answer = visitor.predict(handle_file(path), frames=frames, network=network, api_name="/predict")
        return answer["frames"], answer["indices"], answer["flexible"], answer["plain"]

    alone = [ask(client, *question) for question in asked]
    assert len({str(answer) for answer in alone}) == len(alone), "answers that cannot be told apart"
    before = memory_mb(process)
    visitors = [Client(url, verbose=False) for _ in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        for _ in range(2):
            together = list(pool.map(lambda v, q: ask(v, *q), visitors, asked))
            assert together == alone
    assert memory_mb(process) < before + MARGIN_MB


# ---------------------------------------------------------------- without a page


def test_clips_are_decoded_once_per_content_within_bounds(tmp_path, encode, numbered):
    first, second = (encode(tmp_path / f"{count}.mp4", numbered(count)) for count in (5, 6))
    clips = Clips(Settings(clip_cache_mb=1))
    kept = clips.get(first, Cut())
    (tmp_path / "copy.mp4").write_bytes(first.read_bytes())
    assert clips.get(tmp_path / "copy.mp4", Cut()) is kept, "the key is the content's"
    part = clips.get(first, Cut(start=1 / 30, end=4 / 30))
    assert (part.num_frames, part.first) == (3, 1)
    brightness = part.read([0, 1, 2]).mean(axis=(1, 2, 3))
    assert np.allclose(brightness, [24, 28, 32], atol=2), "frames 1 to 3 of the video"
    assert clips.get(second, Cut()).num_frames == 6
    for i in range(3):  # each fills more than half of the cache
        clips.get(encode(tmp_path / f"big{i}.mp4", numbered(40, 80, 80) + np.uint8(i)), Cut())
        assert clips.kept.currsize <= clips.kept.maxsize
    assert clips.get(first, Cut()) is not kept, "it made room"
    with pytest.raises(VideoError, match="ends after"):
        clips.get(first, Cut(start=3))
    second.unlink()
    with pytest.raises(VideoError, match=r"6\.mp4 is not here any longer"):
        clips.get(second, Cut())


def test_decoding_is_bounded_in_time_and_memory(tmp_path, encode, numbered):
    path = encode(tmp_path / "clip.mp4", numbered(30, 480, 640))
    Clips(Settings()).get(path, Cut())  # whatever starts with the first child is not what is measured
    with pytest.raises(VideoError, match=r"clip\.mp4 takes longer than 0\.001 seconds"):
        Clips(Settings(max_decode_seconds=0.001)).get(path, Cut())
    with pytest.raises(VideoError, match=r"clip\.mp4"):
        Clips(Settings(max_decode_mb=1)).get(path, Cut())
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        child.run(time.sleep, 60, seconds=0.2, megabytes=100)
    assert time.monotonic() - begun < 20, "it was not killed"
    with pytest.raises(MemoryError):
        child.run(bytes, 2**31, seconds=60, megabytes=100)


def test_uploaded_checkpoints(tmp_path):
    networks = Networks(Settings(checkpoints=tmp_path, runs=tmp_path, max_checkpoint_mb=100))
    ours, released = tmp_path / "mine.safetensors", tmp_path / "released.pth.tar"
    ffn.save(network("tsm_tiny", False), ours)
    entry = networks.accept(ours)
    assert (entry.name, entry.frames, entry.classes) == ("uploaded: mine.safetensors", (16,), CLASSES)
    model = ffn.create_backbone("tsm_resnet18", 3)
    state = {
        f"module.base_model.{name}".replace("base_model.fc", "new_fc"): t
        for name, t in model.state_dict().items()
    }
    torch.save({"state_dict": state, "epoch": 3}, released)
    entry = networks.accept(released)
    assert (entry.model, entry.classes, entry.class_name(2)) == ("tsm_resnet18", 3, "class 2")
    assert torch.equal(networks.load(entry).predictor.model.fc.weight, model.fc.weight)
    assert {path.name for path in tmp_path.iterdir()} == {ours.name, released.name}, "nothing more is left"
    assert networks.accept(released) == entry, "the same file uploaded again"

    model = network("tsm_tiny", False)
    model.spec = replace(model.spec, num_classes=10**10)  # a header that would fill the memory
    ffn.save(model, ours)
    wide = network("tsm_tiny", False)
    wide.spec = replace(wide.spec, preprocess=ffn.Preprocess(size=30_000, resize=30_000))
    ffn.save(wide, tmp_path / "wide.safetensors")
    for name, value in (("size", -5), ("sampling", "nonsense"), ("preprocess", None)):
        spec = json.loads(read_metadata(tmp_path / "wide.safetensors")["spec"])
        (spec if name == "preprocess" else spec["preprocess"])[name] = value
        save_file(
            {"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors", {"format": "ffn", "spec": json.dumps(spec)}
        )
    (tmp_path / "pickle.pth").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    for path, sentence in (
        (ours, "too large to be loaded|does not fit|damaged"),
        (tmp_path / "pickle.pth", "pickle.pth is damaged|holds more than tensors"),
        (tmp_path / "wide.safetensors", "wide.safetensors wants frames of 30000 pixels; at most 512"),
        (tmp_path / "size.safetensors", "size must lie between 1 and resize"),
        (tmp_path / "sampling.safetensors", "there is no sampling 'nonsense'"),
        (tmp_path / "preprocess.safetensors", "says of its network what cannot be"),
    ):
        with pytest.raises(ffn.CheckpointError, match=sentence) as caught:
            networks.accept(path)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ffn.CheckpointError, match=r"at most 0\.1 MB"):
        Networks(Settings(max_checkpoint_mb=0.1)).accept(released)


def test_a_cascade_of_a_network_trained_beyond_what_is_kept(tmp_path, encode, numbered):
    model = ffn.create_model("slowfast_tiny", 3).eval()
    ffn.save(model, tmp_path / "net.safetensors")
    answers = Answers(Settings(checkpoints=tmp_path, runs=tmp_path, device="cpu"))
    pair = answers.networks.pair(answers.networks.first())
    clip = answers.clip(encode(tmp_path / "clip.mp4", numbered(50)), answers.cut(pair))
    assert [stage.frames for stage in answers.cascade(pair.main, clip, 1.0)] == [16, 32]


def test_another_network_is_taken_beside_a_clip_that_cannot_be(tmp_path):
    for name in ("one", "two"):
        ffn.save(ffn.create_model("tsm_tiny", 3), tmp_path / f"{name}.safetensors")
    handlers = Handlers(Answers(Settings(checkpoints=tmp_path, runs=tmp_path, device="cpu")))
    one, two = (entry.name for entry in handlers.networks.list())
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    shown = Shown(handlers.networks.pair(handlers.networks.first()))
    for name in (one, two):
        shown, message, *_ = handlers.look(str(tmp_path / "bad.mp4"), 0, 0, name, [], shown)
        assert "bad.mp4" in message and shown.pair.main.name == name and shown.cut is None


def test_settings(monkeypatch):
    monkeypatch.setenv("FFN_MAX_SECONDS", "5.5")
    monkeypatch.setenv("FFN_RUNS", "elsewhere")
    settings = Settings.from_environment()
    assert (settings.max_seconds, settings.max_mb, settings.runs) == (5.5, 50, Path("elsewhere"))
    monkeypatch.setenv("FFN_MAX_MB", "plenty")
    with pytest.raises(ValueError, match="FFN_MAX_MB must be a number above 0, not 'plenty'"):
        Settings.from_environment()
