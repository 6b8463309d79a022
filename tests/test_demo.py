"""The demo page as people meet it: the real app in a process of its own, used through Chromium and the API."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ffn
from app.clips import Clips
from app.demo import limits_from_environment
from ffn.video import VideoError, open_video, preload
from trainers.data.motion import CLASSES

ROOT = Path(__file__).parents[1]
PATIENCE = 60_000  # milliseconds; machines that test are busy


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Stand-ins with fresh weights, and classifiers wild enough that answers differ."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for name, create in (("ffn", ffn.create_model), ("plain16", ffn.create_backbone)):
        model = create("tsm_tiny", len(CLASSES))
        model.spec = replace(model.spec, classes=CLASSES)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.normal_(module.weight, std=0.5)
        ffn.save(model, folder / f"tsm_tiny-{name}-motion.safetensors")
    return folder


def run_demo(arguments, **environment):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"} | environment
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def url(checkpoints, tmp_path_factory):
    """The address of a demo that is running."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = str(tmp_path_factory.mktemp("uploads"))
    settings = {"FFN_CHECKPOINTS": str(checkpoints), "FFN_MAX_SECONDS": "10", "GRADIO_TEMP_DIR": temporary}
    process = run_demo(["-m", "app.demo", "--port", str(port)], **settings)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    process.kill()
                    pytest.fail(f"the demo did not start: {process.communicate()[0]}")
                time.sleep(0.3)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def clip(tmp_path_factory, encode):
    """A bright square that moves to the right over noise, as H.264."""
    frames = np.random.default_rng(0).integers(0, 120, (45, 120, 160, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[40:80, 20 + 2 * i : 60 + 2 * i] = (250, 200, 40)
    return encode(tmp_path_factory.mktemp("clips") / "moving.mp4", frames)


class Page:
    """The demo in one tab of the browser."""

    def __init__(self, browser, url: str, width: int = 1280, height: int = 900):
        self.tab = browser.new_page(viewport={"width": width, "height": height})
        self.tab.set_default_timeout(PATIENCE)
        self.requests, self.errors = [], []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.goto(url)
        self.slider = self.tab.locator("#frames input[type=range]")
        self.number = self.tab.locator("#frames input[type=number]")
        self.slider.wait_for()

    def upload(self, path: Path) -> None:
        if not self.tab.locator("#clip input[type=file]").count():
            self.tab.locator("#clip button[aria-label=Clear]").click()
        self.tab.locator("#clip input[type=file]").set_input_files(path)

    def wait_for(self, frames: int) -> None:
        """Until the answer from that many frames is there."""
        self.tab.wait_for_function(f"document.querySelectorAll('#strip img').length == {frames}")

    def wait_for_message(self, text: str) -> None:
        self.tab.locator("#message", has_text=re.compile(text)).wait_for()

    def set(self, frames: int) -> None:
        self.number.fill(str(frames))
        self.number.press("Enter")
        self.wait_for(frames)

    @property
    def sub_network(self) -> str:
        return self.tab.locator("#results b[aria-current]").inner_text()

    @property
    def answers(self) -> list[list[tuple[str, str]]]:
        """(class, per cent) of the flexible network, then of the plain one."""
        return [
            [tuple(row.inner_text().split("\n")) for row in panel.locator("li").all()]
            for panel in self.tab.locator(".ffn-panel").all()
        ]

    @property
    def latency(self) -> list[str]:
        return self.tab.locator(".ffn-latency dd").all_inner_texts()

    @property
    def times(self) -> list[float]:
        captions = self.tab.locator("#strip figure:not(.unused) figcaption").all_inner_texts()
        return [float(caption.split()[0]) for caption in captions]

    @property
    def overflows(self) -> bool:
        return self.tab.evaluate("document.documentElement.scrollWidth > window.innerWidth")


@pytest.fixture
def page(browser, url):
    page = Page(browser, url)
    yield page
    page.tab.close()
    assert page.errors == []
    assert [request for request in page.requests if not request.startswith((url, "data:", "blob:"))] == []


def test_upload_then_slider(page, clip):
    assert page.tab.title() == "Frame Flexible Network"
    page.upload(clip)
    page.wait_for(8)
    page.wait_for_message("45 frames in 1.5 s")
    assert page.sub_network == "8"
    (decoding, *_), first = page.latency, page.answers
    assert all(len(rows) == 5 and rows[0][0] in CLASSES for rows in first)
    percent = [float(p.rstrip("%")) for _, p in first[0]]
    assert percent == sorted(percent, reverse=True) and 0 < sum(percent) <= 100.5
    height = page.tab.evaluate("document.documentElement.scrollHeight")

    for _ in range(3):  # by keyboard
        page.slider.press("ArrowLeft")
    page.wait_for(5)
    assert page.sub_network == "4"
    second = page.answers
    assert first[0] != second[0] and first[1] != second[1]
    assert page.times == sorted(page.times) and 0 <= page.times[0] < page.times[-1] <= 1.5

    latencies = {tuple(page.latency)}
    for frames, sub_network in ((1, "4"), (6, "8"), (12, "16"), (32, "16")):  # by value
        page.set(frames)
        assert page.sub_network == sub_network and len(page.times) == frames
        latencies.add(tuple(page.latency))
    assert {decoding} == {latency[0] for latency in latencies}, "the clip was decoded again"
    assert len(latencies) > 1
    assert page.tab.evaluate("document.documentElement.scrollHeight") == height, "the page jumped"


def test_dragging_ends_on_the_last_value(page, clip):
    page.upload(clip)
    page.wait_for(8)
    box = page.slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.tab.mouse.move(box["x"] + 0.25 * box["width"], middle)
    page.tab.mouse.down()
    for share in np.linspace(0.2, 0.7, 40):
        page.tab.mouse.move(box["x"] + share * box["width"], middle)
    page.tab.mouse.up()
    last = int(page.number.input_value())
    assert 20 <= last <= 25
    page.wait_for(last)
    page.tab.wait_for_timeout(300)
    assert len(page.times) == last and page.sub_network == "16"


def test_example(page):
    page.tab.locator("#examples .gallery-item").first.click()
    page.wait_for(8)
    page.wait_for_message("48 frames in 3.0 s")


def test_wrong_files_get_a_sentence_and_the_app_goes_on(page, clip, tmp_path, encode, numbered, audio_only):
    text, cut, long = tmp_path / "text.mp4", tmp_path / "cut.mp4", tmp_path / "long.mp4"
    text.write_text("no video\n" * 50)
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    encode(long, numbered(22), fps=2)
    for path, sentence in (
        (text, "text.mp4 is no video file"),
        (cut, "cut.mp4 is cut off"),
        (long, "long.mp4 is longer than 10 seconds"),
        (audio_only(tmp_path / "song.mp4"), "song.mp4 .* holds no video"),
    ):
        page.upload(path)
        page.wait_for_message(sentence)
        page.wait_for(0)
        assert page.tab.locator("#message [role=alert]").count() == 1
        assert "Traceback" not in page.tab.content()
    page.upload(clip)
    page.wait_for(8)
    assert page.tab.locator("#message [role=alert]").count() == 0
    page.errors.clear()  # the browser's own complaints about files that it cannot play


def test_odd_clips(page, encode, numbered, tmp_path):
    clips = {
        "portrait.mp4": (numbered(30), {"rotation": 90}),
        "short.mp4": (numbered(2), {}),
        "odd.webm": (numbered(20, 61, 37), {"codec": "libvpx-vp9"}),
        "recorded.webm": (numbered(20), {"codec": "libvpx", "container": "webm", "options": {"live": "1"}}),
        "varying.mp4": (numbered(20), {"times": np.cumsum(np.r_[0, np.tile([20, 150], 10)[:19]])}),
    }
    for name, (frames, options) in clips.items():
        page.upload(encode(tmp_path / name, frames, **options))
        page.wait_for_message(rf"\b{len(frames)} frames")
        page.wait_for(8)
        assert page.answers[0][0][0] in CLASSES, name


def test_phone(browser, url, clip):
    page = Page(browser, url, width=390, height=844)
    assert not page.overflows
    page.upload(clip)
    page.wait_for(8)
    for frames in (32, 1):
        page.set(frames)
        assert not page.overflows
    # The longest names fit, in the weight of the class that is lit.
    cut = """names => [...document.querySelectorAll('.ffn-panel li')].filter((row, i) => {
        const span = row.querySelector('span');
        row.className = 'same';
        span.textContent = names[i % names.length];
        return span.scrollHeight > span.clientHeight + 1 || span.scrollWidth > span.clientWidth;
    }).map(row => row.innerText)"""
    assert page.tab.evaluate(cut, sorted(CLASSES, key=len)[-10:]) == []
    page.tab.close()


# ---------------------------------------------------------------- for programs


def test_api(url, clip, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False)
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/predict"]
    answer = client.predict(video=handle_file(clip), frames=5, api_name="/predict")
    assert (answer["frames"], answer["sub_network"], len(answer["indices"])) == (5, 4, 5)
    assert [row["class"] in CLASSES for row in answer["flexible"] + answer["plain"]] == [True] * 10
    assert set(answer["latency_ms"]) == {"decoding", "preprocessing", "network"}
    again = client.predict(video=handle_file(clip), frames=16, api_name="/predict")
    assert again["latency_ms"]["decoding"] == answer["latency_ms"]["decoding"], "decoded again"
    (tmp_path / "text.mp4").write_text("no video")
    for path, frames, sentence in (
        (clip, 33, "from 1 to 32, not 33"),
        (clip, 2.5, "whole number"),
        (tmp_path / "text.mp4", 4, "text.mp4 is no video file"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(video=handle_file(path), frames=frames, api_name="/predict")


@pytest.mark.parametrize("meta", ["", ', "meta": {"_type": "gradio.FileData"}'])
def test_api_reads_no_file_that_was_not_uploaded(url, meta):
    path = ROOT / "assets/examples/moving-closer.webm"
    body = f'{{"data": [{{"path": "{path}"{meta}}}, 4]}}'.encode()
    call, kind = f"{url}/gradio_api/call/predict", {"content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(call, body, kind), timeout=60) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{call}/{event}", timeout=60) as reply:
        answer = reply.read()
    assert b"event: error" in answer and b"probability" not in answer


# ---------------------------------------------------------------- without a page


def test_missing_checkpoint_is_one_sentence(tmp_path):
    """Run as a file, as Hugging Face Spaces does."""
    process = run_demo(["app/demo.py"], FFN_CHECKPOINTS=str(tmp_path))
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 2, output
    assert "tsm_tiny-ffn-motion.safetensors; give another file with --flexible" in output.splitlines()[-1]
    assert "Traceback" not in output


def test_limits_from_the_environment(monkeypatch):
    for variable in ("FFN_MAX_MB", "FFN_MAX_SECONDS", "FFN_MAX_PIXELS"):
        monkeypatch.delenv(variable, raising=False)
    limits = limits_from_environment()
    assert (limits.megabytes, limits.seconds, limits.pixels) == (50, 60, 3840 * 2160)
    monkeypatch.setenv("FFN_MAX_SECONDS", "7.5")
    assert limits_from_environment().seconds == 7.5
    for wrong in ("lots", "0", "-1", "nan"):
        monkeypatch.setenv("FFN_MAX_MB", wrong)
        with pytest.raises(ValueError, match=f"FFN_MAX_MB must be a number above 0, not '{wrong}'"):
            limits_from_environment()


def test_clips_are_decoded_once_and_again_when_they_made_room(tmp_path, encode, numbered):
    first, second = (encode(tmp_path / f"{count}.mp4", numbered(count)) for count in (5, 6))
    decoded = []

    def load(path):
        decoded.append(path.name)
        return preload(open_video(path), [4], "segment")

    clips = Clips(load, max_bytes=5 * 48 * 64 * 3)
    key = clips.add(first)
    assert clips.add(first) == key and clips.get(key, first).num_frames == 5
    assert decoded == ["5.mp4"]
    (tmp_path / "copy.mp4").write_bytes(first.read_bytes())
    assert clips.add(tmp_path / "copy.mp4") == key, "the key is the content's"
    assert clips.add(second) != key  # makes room
    assert clips.get(key, first).num_frames == 5
    assert decoded == ["5.mp4", "6.mp4", "5.mp4"]
    tiny = Clips(load, max_bytes=10)  # too small for any clip: nothing is kept, all works
    assert tiny.get(tiny.add(first), first).num_frames == 5
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError):
        clips.add(tmp_path / "text.mp4")
