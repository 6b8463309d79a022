"""Take the pictures of the demo again: python docs/screenshots.py

Needs a Chromium and ``playwright`` (``pip install -e .[test]``). FFN_CHECKPOINTS chooses the networks, as it
does for the demo itself.
"""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
EXAMPLE = 2  # moving left to right
SIZES = {"desktop": (1280, 800, 1), "phone": (390, 844, 1.5)}  # width, height, scale
COUNTS = (4, 16)


def start_demo() -> tuple[subprocess.Popen, str]:
    """The demo on a free port, and its address once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "app.demo", "--port", str(port)], cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return process, url
        except OSError:
            time.sleep(0.3)
    sys.exit("the demo did not start")


def show(page: Page, frames: int) -> None:
    page.locator("#frames input[type=number]").fill(str(frames))
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('#strip img').length == {frames}")
    page.evaluate("document.activeElement.blur()")
    # The player's picture depends on the moment; the middle of the clip shows what it is about.
    page.evaluate(
        "document.querySelectorAll('video').forEach(v => (v.pause(), v.currentTime = v.duration / 2))"
    )
    page.wait_for_timeout(1000)


def main() -> None:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        sys.exit("no browser: install Chromium")
    IMAGES.mkdir(exist_ok=True)
    process, url = start_demo()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            for name, (width, height, scale) in SIZES.items():
                page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=scale)
                page.goto(url)
                page.locator("#examples .gallery-item").nth(EXAMPLE).click(timeout=60_000)
                page.wait_for_function("document.querySelectorAll('#strip img').length == 8")
                for frames in COUNTS:
                    show(page, frames)
                    picture = IMAGES / f"demo-{name}-{frames}.png"
                    page.screenshot(path=picture, full_page=True)
                    print(picture.relative_to(ROOT))
                page.close()
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
