"""Take the pictures of the demo again: python docs/screenshots.py

Needs a Chromium and ``playwright`` (``pip install -e .[test]``). FFN_CHECKPOINTS chooses the networks, as it
does for the demo itself. The page is used by the same hands as in ``tests/test_demo.py``.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from demo_page import Page, serving  # noqa: E402

IMAGES = ROOT / "docs" / "images"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
EXAMPLE = 5  # two things coming together
SIZES = {  # width, height, scale, colours
    "desktop-4": (1280, 800, 1, "light"),
    "desktop-4-dark": (1280, 800, 1, "dark"),
    "phone-4": (390, 844, 1.5, "light"),
    "phone-4-dark": (390, 844, 1.5, "dark"),
}


def take(page: Page, name: str) -> None:
    page.tab.evaluate("document.activeElement.blur()")
    # The player's picture depends on the moment; the middle of the clip shows what it is about.
    page.tab.evaluate(
        "document.querySelectorAll('video[src]').forEach(v => (v.pause(), v.currentTime = v.duration / 2))"
    )
    page.tab.wait_for_timeout(1000)
    picture = IMAGES / f"demo-{name}.png"
    page.tab.screenshot(path=picture, full_page=True)
    print(picture.relative_to(ROOT))


def visit(page: Page, name: str) -> None:
    """Example, sweep, cascade; then few frames, where the plain network fails."""
    page.take_example(EXAMPLE)
    page.wait_for_sweep()
    page.tab.locator("#choose").click()
    page.tab.locator("#chosen b").wait_for()
    page.tab.locator("#run-cascade").click()
    page.tab.locator("#cascade li").first.wait_for()
    page.set(4)
    take(page, name)


def main() -> None:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        sys.exit("no browser: install Chromium")
    IMAGES.mkdir(exist_ok=True)
    with serving() as (url, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *CAMERA])
        for name, (width, height, scale, colours) in SIZES.items():
            page = Page(browser, url, width, height, device_scale_factor=scale, color_scheme=colours)
            visit(page, name)
            page.close()
        page = Page(browser, url)
        page.tab_named("Live camera")
        page.start_camera()
        page.tab.wait_for_timeout(4000)
        take(page, "live")


if __name__ == "__main__":
    main()
