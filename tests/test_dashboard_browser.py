"""The whole way in a real browser, with a real worker: launch, watch, close, stop, resume, finish, compare."""

import os
import re
import signal
import time

import psutil
import pytest
from dashboard_server import free_port, kill, start, wait_until_it_answers

import ffn
from trainers.jobs.store import Store

pytestmark = pytest.mark.slow
PATIENCE = 120_000  # milliseconds; an idle machine needs a few seconds
EPOCHS = 100
NAME = "*first* <b>run"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The environment of every process of this test, and what ends them all."""
    runs = tmp_path / "runs"
    monkeypatch.setenv("FFN_RUNS", str(runs))
    for variable in ("FFN_DATABASE_URL", "FFN_READONLY", "FFN_PASSWORD", "SPACE_ID", "PORT"):
        monkeypatch.delenv(variable, raising=False)
    store = Store()
    yield tmp_path, runs, store
    for job in store.search(archived=None):
        if job.pid and psutil.pid_exists(job.pid):
            os.killpg(job.pid, signal.SIGKILL)
    store.close()


def open_dashboard(folder, port, **environment):
    process = start("app.dashboard", "--port", str(port), log=folder / "dashboard.txt", **environment)
    wait_until_it_answers(process, f"http://127.0.0.1:{port}/_stcore/health")
    return process


def fill(page, **values):
    for label, value in values.items():
        field = page.get_by_label(label.replace("_", " "), exact=True)
        field.fill(value, timeout=PATIENCE)
        field.press("Enter")


def click(page, label):
    page.get_by_role("button", name=label, exact=True).click(timeout=PATIENCE)


def state_is(page, state):
    page.locator(".stMarkdownBadge").filter(has_text=state).wait_for(timeout=PATIENCE)


def epoch(page):
    text = page.get_by_text(re.compile(r"epoch \d+ of \d+")).first.inner_text(timeout=PATIENCE)
    return int(re.search(r"epoch (\d+) of", text)[1])


def wait(condition, what, patience=PATIENCE / 1000):
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.3)
    return value


def points(page):
    """Points of the first curve that is drawn."""
    return page.evaluate("document.querySelector('.js-plotly-plot')?.data?.[0]?.x?.length ?? 0")


def x_range(page):
    return page.evaluate("document.querySelector('.js-plotly-plot').layout.xaxis.range")


def zoom(page):
    """Drag over a part of the first figure until it shows that; the range of x that it then has."""

    def drag():
        box = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
        if box is None:  # it is being drawn anew
            return False
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + 0.2 * box["width"], y)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.6 * box["width"], y, steps=8)
        page.mouse.up()
        return page.evaluate("document.querySelector('.js-plotly-plot').layout.xaxis.autorange") is False

    wait(drag, "a zoomed figure")
    return x_range(page)


def test_a_job_from_the_form_to_the_comparison(browser, place):
    folder, runs, store = place
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    worker = start("trainers.worker", "--poll", "0.3", log=folder / "worker.txt")
    dashboard = open_dashboard(folder, port)
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        _launch(page, url)
        job = wait(store.search, "a job in the store")[0]
        page.wait_for_url(re.compile(rf"/job\?id={job.id}$"), timeout=PATIENCE)
        page.get_by_text(NAME, exact=True).first.wait_for(timeout=PATIENCE)  # as text, not Markdown or HTML

        wait(lambda: epoch(page) >= 1, "the first epoch")
        seen, drawn = epoch(page), wait(lambda: points(page), "a curve")
        wait(lambda: epoch(page) > seen and points(page) > drawn, "epoch and curve to move")
        _hold(page)

        page.close()
        kill(dashboard)  # in mid-run
        assert psutil.pid_exists(store.get(job.id).pid) and store.get(job.id).state == "running"
        dashboard = open_dashboard(folder, port)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{url}/job?id={job.id}")
        wait(lambda: epoch(page) > seen, "what happened meanwhile")

        process = store.get(job.id).pid
        click(page, "Stop")
        state_is(page, "cancelled")
        stopped = store.get(job.id)
        assert stopped.epoch < EPOCHS
        wait(lambda: not psutil.pid_exists(process), "its process to end")
        click(page, "Resume")
        state_is(page, "succeeded")
        finished = store.get(job.id)
        assert finished.resumes == 1 and finished.epoch == EPOCHS and finished.step == finished.steps
        page.get_by_role("tab", name="Results").click()
        page.get_by_text("Confusion at").wait_for(timeout=PATIENCE)

        other = _clone(page, store, job)
        _compare(page, url, job, other)
        assert ffn.load(runs / NAME / "best.safetensors").frames == (2, 4)
    finally:
        kill(dashboard)
        kill(worker)


def _launch(page, url):
    page.goto(f"{url}/launch")
    page.get_by_text("Dataset:").click(timeout=PATIENCE)
    fill(page, Name_of_the_run=NAME, Frames="2 4", Epochs=str(EPOCHS), Batch_size="8")
    fill(page, Clips="32", Val_clips="21", Size="32", Workers="0")
    page.get_by_text(re.compile("--workers")).first.wait_for(timeout=PATIENCE)
    click(page, "Launch")


def _hold(page):
    """A curve that is held keeps its points and its zoom while the job goes on; let go, it goes on too."""
    hold = page.get_by_text("Hold still", exact=True)
    hold.click(timeout=PATIENCE)
    page.get_by_role("switch", checked=True).or_(page.get_by_role("checkbox", checked=True)).wait_for()
    page.wait_for_timeout(3000)  # what was under way
    seen, drawn, shown = epoch(page), points(page), zoom(page)
    wait(lambda: epoch(page) > seen + 1, "the epoch to move")
    assert (points(page), x_range(page)) == (drawn, shown)
    hold.click(timeout=PATIENCE)
    wait(lambda: points(page) > drawn, "the curve to move again")


def _clone(page, store, job):
    """An edited copy, once it is done."""
    click(page, "Clone")
    page.wait_for_url(re.compile(rf"/launch\?of={job.id}$"), timeout=PATIENCE)
    fill(page, Name_of_the_run="second", Frames="4", Epochs="2")
    page.get_by_text("--epochs").first.wait_for(timeout=PATIENCE)
    click(page, "Launch")
    copy = wait(lambda: store.search("second"), "the copy")[0]
    page.wait_for_url(re.compile(rf"/job\?id={copy.id}$"), timeout=PATIENCE)
    state_is(page, "succeeded")
    return copy


def _compare(page, url, *jobs):
    page.goto(f"{url}/compare?ids={','.join(str(job.id) for job in jobs)}")
    figures = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.data?.length)"
    wait(lambda: page.evaluate(figures) == [2, 2], "both jobs in both figures")
    legend = "[...document.querySelectorAll('.legendtext')].map(text => text.textContent)"
    assert f"#{jobs[0].id} {NAME}" in page.evaluate(legend)


def test_the_table_keeps_what_is_typed_and_opens_a_job(browser, place):
    from trainers.config import Config

    folder, runs, store = place
    jobs = [store.add(Config(out=runs / f"job-{i}")) for i in range(3)]
    port = free_port()
    dashboard = open_dashboard(folder, port)
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{port}")
        table = page.locator("[data-testid=stDataFrame] canvas").first
        table.wait_for(timeout=PATIENCE)
        search = page.get_by_role("textbox", name="Search")
        search.fill("job-")
        store.move(jobs[0].id, ["queued"], "running")
        page.get_by_text("2 queued, 1 running").wait_for(timeout=PATIENCE)  # the table is live
        assert search.input_value() == "job-"
        search.press("Enter")
        page.wait_for_url(re.compile("q=job-"), timeout=PATIENCE)
        box = table.bounding_box()
        page.mouse.click(box["x"] + 200, box["y"] + 35 * 1.5)  # the first row: the newest job
        page.wait_for_url(re.compile(rf"/job\?id={jobs[-1].id}$"), timeout=PATIENCE)
        page.get_by_role("link", name="Jobs").click()
        table.wait_for(timeout=PATIENCE)
        page.wait_for_timeout(3000)
        assert "/job?" not in page.url  # nothing is clicked any more
    finally:
        kill(dashboard)


def test_a_finished_job_opens_in_the_demo(browser, place):
    from trainers.config import Config

    folder, runs, store = place
    job = store.add(Config(out=runs / "mine"))
    (runs / "mine").mkdir(parents=True)
    ffn.save(ffn.create_model("tsm_tiny", 3, (2, 4)), runs / "mine" / "best.safetensors")
    store.move(job.id, ["queued"], "succeeded")
    port, demo_port = free_port(), free_port()
    demo_url = f"http://127.0.0.1:{demo_port}"
    demo = start("app.demo", "--port", str(demo_port), log=folder / "demo.txt", FFN_RUNS=str(runs))
    dashboard = open_dashboard(folder, port, FFN_DEMO_URL=demo_url)
    try:
        wait_until_it_answers(demo, demo_url)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"http://127.0.0.1:{port}/job?id={job.id}")
        with page.expect_popup(timeout=PATIENCE) as popup:
            page.get_by_role("link", name="Open in the demo").click(timeout=PATIENCE)
        network = popup.value.locator("#network input")
        wait(
            lambda: network.input_value(timeout=PATIENCE).startswith("mine"),
            "the demo to take the job's network",
        )
    finally:
        kill(dashboard)
        kill(demo)
