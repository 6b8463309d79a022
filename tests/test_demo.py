"""The demo page in Chromium, at desktop and phone width."""

import re

import numpy as np
import pytest
from demo_networks import write_networks
from demo_page import Page, serving, start

from trainers.data.motion import CLASSES

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def url(folder):
    temporary = str(folder / "uploads")
    with serving(**write_networks(folder), FFN_MAX_SECONDS="10", GRADIO_TEMP_DIR=temporary) as (url, _):
        yield url


@pytest.fixture(scope="module")
def clip(folder, encode):
    """A bright square that moves to the right over noise, as H.264, wider than high."""
    frames = np.random.default_rng(0).integers(0, 120, (45, 120, 160, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[40:80, 20 + 2 * i : 60 + 2 * i] = (250, 200, 40)
    return encode(folder / "moving.mp4", frames)


@pytest.fixture
def open_page(browser, url):
    pages = []

    def opened(query="", **options):
        pages.append(Page(browser, url + query, **options))
        return pages[-1]

    yield opened
    for page in pages:
        page.close()
        assert page.errors == []
        assert [r for r in page.requests if not r.startswith((url, "data:", "blob:"))] == []


@pytest.mark.parametrize("size", SIZES)
def test_a_visit(open_page, clip, folder, size):
    width, height = SIZES[size]
    page = open_page(width=width, height=height)
    assert page.tab.title() == "Frame Flexible Network"
    page.take_example(0)
    page.wait_for(8)
    page.wait_for_message("48 frames in 3.0 s")
    assert page.sub_network == "8"
    (decoding, *_), first = page.latency, page.answers
    assert all(len(rows) == 5 and rows[0][0] in CLASSES for rows in first)
    percent = [float(p.rstrip("%")) for _, p in first[0]]
    assert percent == sorted(percent, reverse=True) and 0 < sum(percent) <= 100.5

    page.wait_for_sweep()
    settled = page.height
    for line in ("main", "plain"):
        shares = page.tab.locator(f"#sweep polyline.{line}").first.get_attribute("points").split()
        assert len(shares) == 32 and len(set(shares)) > 20
    page.click_curve(20)
    page.wait_for(20)
    marker = "getComputedStyle(document.documentElement).getPropertyValue('--frames')"
    assert page.number.input_value() == "20" and page.tab.evaluate(marker) == "20"

    last = page.drag(0.7)
    page.wait_for(last)
    assert 20 <= last <= 25 and page.sub_network == "16"
    for _ in range(3):
        page.slider.press("ArrowLeft")
    page.wait_for(last - 3)
    for frames, sub_network in ((1, "4"), (6, "8"), (12, "16"), (32, "16")):
        page.set(frames)
        assert page.sub_network == sub_network and page.times == sorted(page.times)
    assert page.latency[0] == decoding, "the clip was decoded again"
    assert page.height == settled, "the page jumped"
    assert not page.overflows

    page.tab.locator("#budget input").fill("0.000001")
    page.tab.locator("#choose").click()
    page.tab.locator("#chosen [role=alert]", has_text="too small: 1 frame takes").wait_for()
    page.tab.locator("#budget input").fill("100000")
    page.tab.locator("#budget input").press("Enter")
    page.tab.locator("#chosen [role=status]", has_text="32 frames in").wait_for()
    page.tab.locator("#confidence input[type=number]").fill("0.5")
    page.tab.locator("#run-cascade").click()
    page.tab.locator("#cascade li").nth(2).wait_for()
    assert "than taking 16 always" in page.tab.locator("#cascade p").inner_text()
    assert not page.overflows

    page.pick("my-run")
    page.tab.locator("#results", has_text="none of this kind here").wait_for()
    page.tab.wait_for_function("!document.querySelector('#sweep .plain')")
    page.wait_for_sweep()
    assert page.answers[0] != first[0]
    page.upload(clip)
    page.wait_for_message("45 frames in 1.5 s.*the square in its middle")
    (folder / "hostile.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 50)
    page.upload(folder / "hostile.mp4")
    page.tab.locator("#message [role=alert]", has_text="hostile.mp4 is damaged").wait_for()
    page.wait_for(0)
    page.upload(clip)
    page.wait_for_message("45 frames")
    page.wait_for(int(page.number.input_value()))
    assert not page.overflows
    page.errors.clear()  # the browser's own complaints about the file that it cannot play


def test_a_visitor_meets_the_network_that_is_set(browser):
    with serving(FFN_NETWORK="tsm_tiny-plain16-motion") as (url, _):
        page = Page(browser, url)
        page.tab.locator("#network input").wait_for()
        page.tab.wait_for_timeout(2000)  # the page is filled in after it is there
        assert page.tab.locator("#network input").input_value().startswith("tsm_tiny-plain16-motion")
        page.close()


def test_what_others_took_before_is_swept_at_once_for_the_next(open_page):
    """The answers are at hand, so that the sweep begins before the page has done all it does for a new clip."""
    for _ in range(4):
        page = open_page()
        page.take_example(1)
        page.wait_for_sweep()
        page.close()


def test_the_last_of_clips_taken_in_a_row_is_swept(open_page, clip):
    page = open_page()
    page.take_example(1)
    page.tab.locator("#sweep polyline").first.wait_for()  # the first sweep is under way
    page.upload(clip)
    page.wait_for_message("45 frames")
    lone = open_page()
    lone.upload(clip)
    lone.wait_for_sweep()
    curve = "document.querySelector('#sweep polyline.main')?.getAttribute('points')"
    last = lone.tab.evaluate(curve)
    page.tab.wait_for_function(f"last => {curve} === last", arg=last)
    page.tab.wait_for_timeout(1000)  # nothing outdated follows
    assert page.tab.evaluate(curve) == last


def test_the_segment_that_is_classified(open_page, clip):
    page = open_page()
    page.upload(clip)
    page.wait_for_sweep()
    whole, ends = page.answers, page.tab.locator("#segment input[type=number]")
    assert [ends.nth(i).input_value() for i in (0, 1)] == ["0", "1.5"]
    ends.nth(0).fill("0.8")
    ends.nth(0).press("Enter")
    page.wait_for_message("21 frames in 0.7 s")
    page.tab.wait_for_function("document.querySelector('#strip figcaption').innerText >= '0.8'")
    assert 0.8 <= page.times[0] < page.times[-1] <= 1.5 and page.answers != whole
    ends.nth(1).fill("0.4")
    ends.nth(1).press("Enter")
    page.wait_for_message("from 0.8 to 0.4 seconds is empty")


def test_networks_by_address_and_by_upload(open_page, clip, folder):
    page = open_page("?network=my-run")
    page.tab.wait_for_function("document.querySelector('#network input').value.startsWith('my-run')")
    page.upload(clip)
    page.wait_for(8)
    (folder / "broken.safetensors").write_bytes(b"\0" * 100)
    upload = page.tab.locator("#add input[type=file], input#add, button#add + input").first
    if not upload.count():
        upload = page.tab.locator("input[type=file][accept*=safetensors]").first
    upload.set_input_files(folder / "broken.safetensors")
    page.wait_for_message("broken.safetensors is damaged")
    upload.set_input_files(folder / "other.safetensors")
    page.tab.wait_for_function("document.querySelector('#network input').value.includes('other')")
    page.tab.locator("#results", has_text="trained at 16 frames only").wait_for()
    other = open_page("?network=nothing")
    other.wait_for_message("There is no network nothing here")
    other.tab.locator("#network input").click()
    assert len(other.tab.get_by_role("option").all()) == 3, "an upload is its visitor's alone"


def test_what_the_page_says_to_those_who_cannot_see_and_to_programs(open_page):
    page = open_page()
    page.tab.locator("#examples [aria-label='camera zooming in']").wait_for()
    page.tab_named("For programs")
    page.tab.locator("#code", has_text=f'Client("{page.tab.url}")').wait_for()


def test_live_camera(open_page):
    page = open_page()
    page.tab_named("Live camera")
    page.start_camera()
    page.tab.locator("#live-answer", has_text=re.compile(r"The last [12]\.\d s from 8 frames")).wait_for()
    assert page.tab.locator("#live-answer li span").first.inner_text() in CLASSES
    page.tab.locator("#live-frames input[type=number]").fill("3")
    page.tab.locator("#live-frames input[type=number]").press("Enter")
    page.tab.wait_for_function("document.querySelectorAll('#live-strip img').length == 3")


def test_recorded_in_the_browser(open_page):
    page = open_page()
    page.tab.locator("#clip button[aria-label='Capture from camera']").click()
    page.tab.locator("#clip").get_by_text("Click to Access Webcam").click()
    record = page.tab.locator("#clip button[aria-label='start recording']")  # which also stops
    page.tab.wait_for_function("document.querySelector('#clip video')?.readyState >= 3")
    record.click()
    page.tab.wait_for_timeout(4000)  # a busy machine encodes few frames a second
    record.click()
    page.wait_for_message(r"\d+ frames? in \d")
    page.wait_for(8)


def test_long_class_names_fit_on_a_phone(open_page, clip):
    page = open_page(width=390, height=844)
    page.upload(clip)
    page.wait_for(8)
    cut = """names => [...document.querySelectorAll('#results .ffn-panel li')].filter((row, i) => {
        const span = row.querySelector('span');
        row.className = 'same';
        span.textContent = names[i % names.length];
        return span.scrollHeight > span.clientHeight + 1 || span.scrollWidth > span.clientWidth;
    }).map(row => row.innerText)"""
    assert page.tab.evaluate(cut, sorted(CLASSES, key=len)[-10:]) == []


def test_nothing_to_show_is_one_sentence(tmp_path):
    """Run as a file, as Hugging Face Spaces does."""
    process = start(["app/demo.py"], FFN_CHECKPOINTS=str(tmp_path), FFN_RUNS=str(tmp_path))
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 2, output
    assert "set FFN_CHECKPOINTS to a folder of .safetensors files" in output.splitlines()[-1]
