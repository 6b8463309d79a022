"""The demo as people meet it: the real app in a process of its own, and a tab of a browser that uses it."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 180  # seconds; machines that test are busy


def start(arguments, **environment) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GRADIO_ANALYTICS_ENABLED": "False"} | environment
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serving(**environment):
    """A running demo: its address and its process."""
    port = free_port()
    process = start(["-m", "app.demo", "--port", str(port)], **environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(url, process)
        yield url, process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def wait_until_up(url: str, process: subprocess.Popen, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise AssertionError(f"the demo did not start: {process.communicate()[0]}") from error
            time.sleep(0.2)


class Page:
    """The demo in one tab."""

    def __init__(self, browser, url: str, width: int = 1280, height: int = 900, **options):
        self.tab = browser.new_page(viewport={"width": width, "height": height}, **options)
        self.tab.set_default_timeout(PATIENCE * 1000)
        self.requests, self.errors = [], []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.goto(url)
        self.slider = self.tab.locator("#frames input[type=range]")
        self.number = self.tab.locator("#frames input[type=number]")
        self.slider.wait_for()

    def take_example(self, number: int) -> None:
        self.tab.locator("#examples .gallery-item").nth(number).click()

    def upload(self, path: Path) -> None:
        if not self.tab.locator("#clip input[type=file]").count():
            self.tab.locator("#clip button[aria-label=Clear]").click()
        self.tab.locator("#clip input[type=file]").set_input_files(path)

    def set(self, frames: int) -> None:
        self.number.fill(str(frames))
        self.number.press("Enter")
        self.wait_for(frames)

    def drag(self, share: float) -> int:
        """Drag the slider to ``share`` of its length; the frame count it ends on."""
        self.slider.scroll_into_view_if_needed()
        box = self.slider.bounding_box()
        middle = box["y"] + box["height"] / 2
        self.tab.mouse.move(box["x"] + 0.25 * box["width"], middle)
        self.tab.mouse.down()
        for i in range(1, 21):
            self.tab.mouse.move(box["x"] + (0.2 + (share - 0.2) * i / 20) * box["width"], middle)
        self.tab.mouse.up()
        return int(self.number.input_value())

    def pick(self, network: str) -> None:
        self.tab.locator("#network input").click()
        self.tab.get_by_role("option", name=re.compile(re.escape(network))).click()

    def wait_for(self, frames: int) -> None:
        """Until the answer from that many frames is there."""
        self.tab.wait_for_function(f"document.querySelectorAll('#strip img').length == {frames}")

    def wait_for_message(self, text: str) -> None:
        self.tab.locator("#message", has_text=re.compile(text)).wait_for()

    def wait_for_sweep(self) -> None:
        self.tab.locator("#sweep", has_text="Click a curve").wait_for()

    def click_curve(self, frames: int) -> None:
        self.tab.locator(f"#sweep [data-frames='{frames}']").first.click()

    def tab_named(self, name: str) -> None:
        self.tab.get_by_role("tab", name=name).click()

    def start_camera(self) -> None:
        self.tab.get_by_text("Click to Access Webcam").last.click()
        self.tab.locator("#camera button[aria-label='capture photo']").click()
        self.tab.locator("#live-answer", has_text=re.compile(r"The last \d\.\d s")).wait_for()

    @property
    def sub_network(self) -> str:
        return self.tab.locator("#results b[aria-current]").inner_text()

    @property
    def answers(self) -> list[list[tuple[str, str]]]:
        """(class, per cent) of the main network, then of the plain one."""
        return [
            [tuple(row.inner_text().split("\n")) for row in panel.locator("li").all()]
            for panel in self.tab.locator("#results .ffn-panel").all()
        ]

    @property
    def latency(self) -> list[str]:
        return self.tab.locator("#results .ffn-latency dd").all_inner_texts()

    @property
    def times(self) -> list[float]:
        captions = self.tab.locator("#strip figcaption").all_text_contents()
        return [float(caption.split()[0]) for caption in captions]

    @property
    def height(self) -> int:
        return self.tab.evaluate("document.documentElement.scrollHeight")

    @property
    def overflows(self) -> bool:
        return self.tab.evaluate("document.documentElement.scrollWidth > window.innerWidth")

    def close(self) -> None:
        self.tab.close()
