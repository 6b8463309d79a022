"""Take the pictures of the dashboard again: python docs/screenshots_dashboard.py

Trains three small networks for them, in a temporary folder (about six minutes). Needs a Chromium and
``playwright`` (``pip install -e .[test]``).
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Error, Page, sync_playwright
from screenshots import IMAGES, ROOT

from trainers.config import Config
from trainers.jobs.store import Store
from trainers.jobs.tables import FINISHED

SIZES = {"desktop": (1280, 800, 1), "phone": (390, 844, 1.5)}  # width, height, scale
SMALL = {"clips": 1260, "val_clips": 420, "init": str(ROOT / "assets" / "tsm_tiny-plain16-motion.safetensors")}
RUNS = {
    "motion-ffn": {"frames": (4, 8, 16), "epochs": 4},
    "motion-plain16": {"method": "plain", "frames": (16,), "epochs": 4},
    "motion-ffn-long": {"frames": (4, 8, 16), "epochs": 30},  # still runs when the pictures are taken
}
PAGES = {"jobs": "", "job": "job?id=3", "results": "job?id=1", "launch": "launch"}
PAGES |= {"compare": "compare?ids=1,2"}


def start(module: str, *arguments: str) -> subprocess.Popen:
    # In a session of its own: what stops this script is not to stop the worker before its runs.
    return subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, start_new_session=True)


def train(store: Store, runs: Path) -> None:
    """Queue the runs, and wait until the last one has a curve."""
    jobs = [store.add(Config(out=runs / name).with_fields(SMALL | run)) for name, run in RUNS.items()]
    while True:
        *done, running = (store.get(job.id) for job in jobs)
        if failed := [job.error for job in done if job.state in FINISHED[1:]]:
            sys.exit(f"a run failed: {failed[0]}")
        if all(job.state in FINISHED for job in done) and running.epoch >= 3:
            return
        time.sleep(1)


def take(page: Page, url: str, name: str, path: Path) -> None:
    for _ in range(60):
        try:
            page.goto(f"{url}/{PAGES[name]}")
            break
        except Error:  # it is not up yet
            time.sleep(0.5)
    marker = {"jobs": "stDataFrame", "launch": "stCode"}.get(name, "stPlotlyChart")
    page.get_by_test_id(marker).first.wait_for(timeout=60_000)
    if name == "results":
        page.get_by_role("tab", name="Results").click()
        page.get_by_text("Confusion at").wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    width = page.viewport_size["width"]
    height = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_timeout(2500)
    page.screenshot(path=path)
    print(path.relative_to(ROOT))


def main() -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no browser: install Chromium")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    runs = Path(tempfile.mkdtemp())
    os.environ |= {"FFN_RUNS": str(runs), "FFN_DATABASE_URL": f"sqlite:///{runs}/jobs.db"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    processes = [start("trainers.worker"), start("app.dashboard", "--port", port)]
    store = Store()
    try:
        train(store, runs)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for size, (width, height, scale) in SIZES.items():
                viewport = {"width": width, "height": height}
                for name in PAGES:
                    page = browser.new_page(viewport=viewport, device_scale_factor=scale)
                    take(page, f"http://127.0.0.1:{port}", name, IMAGES / f"dashboard-{name}-{size}.png")
                    page.close()
    finally:  # runs outlive their worker, so they are stopped before it
        ids = [job.id for job in store.search()]
        for job_id in ids:
            store.cancel(job_id)
        while processes[0].poll() is None and any(store.get(job_id).state not in FINISHED for job_id in ids):
            time.sleep(0.5)
        for process in processes:
            process.terminate()
            process.wait()
        shutil.rmtree(runs)


if __name__ == "__main__":
    main()
