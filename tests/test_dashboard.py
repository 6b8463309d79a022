"""The dashboard's pages without a browser: what they let through, what they show, and how fast."""

import json
import os
import socket
import time

import psutil
import pytest
from dashboard_server import free_port, kill, start, wait_until_it_answers
from sqlalchemy import event
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from app.dashboard_pages import access, charts, common, folder, form, jobs, launch, preflight, usage
from trainers.config import Config
from trainers.jobs.store import save_metrics
from trainers.recipes import RECIPES

SCRIPT = os.path.join(os.path.dirname(__file__), "..", "app", "dashboard.py")
DEAD = "postgresql://nobody@127.0.0.1:1/jobs"


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """An empty folder of runs, with its own database, and nobody's settings."""
    for variable in ("FFN_DATABASE_URL", "FFN_READONLY", "FFN_PASSWORD", "SPACE_ID", "FFN_DEMO_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("FFN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("FFN_DATA", str(tmp_path / "data"))
    return tmp_path / "runs"


def add(runs, name="a", **changes):
    return common.store().add(Config(out=runs / name).with_fields(changes))


def open_page(name="", **query):
    """The page of that address, as the browser would open it."""
    page = AppTest.from_file(SCRIPT, default_timeout=60)
    for key, value in query.items():
        page.query_params[key] = str(value)
    page._page_hash = calc_hash(name)  # its own switch_page only knows pages that are files
    return page.run()


def said(page):
    return [error.value.replace("\\", "") for error in page.error]


# --- the form


def test_every_setting_has_a_place_in_the_form_and_an_explanation():
    drawn = [*form.FIRST, *(name for _, names in form.groups() for name in names)]
    assert sorted(drawn) == sorted(Config().flat().keys() - form.ELSEWHERE)
    assert all(form.all_docs()[name] for name in drawn)


def test_the_form_gives_back_what_it_shows():
    hints = form.all_hints()
    precise = Config().with_fields({"lr": 0.00012345678})
    for config in (Config(), precise, *map(Config.from_recipe, RECIPES)):
        values = config.flat()
        typed = {k: v if isinstance(v, bool) else form.shown(v) for k, v in values.items()}
        assert {k: form.parse(k, hints[k], v) for k, v in typed.items()} == values


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("lr", "fast", "lr must be a number, not 'fast'"),
        ("lr", "nan", "lr must be a number, not 'nan'"),
        ("epochs", "3.5", "epochs must be a whole number, not '3.5'"),
        ("epochs", " ", "epochs is empty: give a value"),
        ("frames", "4, x", "frames must be whole numbers such as 4 8 16, not '4, x'"),
    ],
)
def test_what_cannot_be_read_is_named(name, text, sentence):
    with pytest.raises(ValueError) as caught:
        form.parse(name, form.all_hints()[name], text)
    assert str(caught.value) == sentence


# --- what may be launched


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/b", ".a", "-a", "a\nb", "a" * 101, ".."])
def test_a_run_is_named_by_one_folder(name):
    with pytest.raises(ValueError, match="cannot be a run's name"):
        launch.named(name)


def test_no_run_takes_the_folder_of_another(runs):
    add(runs, "tsm_tiny-ffn-motion")
    with pytest.raises(ValueError, match="There is a run named tsm_tiny-ffn-motion already"):
        launch.named("tsm_tiny-ffn-motion")
    assert launch.complete(Config(), "").out == runs / "tsm_tiny-ffn-motion-2"
    assert launch.complete(Config(), "other").out == runs / "other"


def test_paths_of_the_form_stay_in_their_folders(runs, tmp_path):
    (tmp_path / "data" / "clips").mkdir(parents=True)
    (tmp_path / "data" / "away").symlink_to("/etc")
    inside = preflight.confined(Config().with_fields({"data_root": "clips", "cache": "cached"}))
    assert inside.dataset.data_root == tmp_path / "data" / "clips" and inside.dataset.cache == runs / "cached"
    for changes in (
        {"data_root": "/etc"},
        {"data_root": "../x"},
        {"data_root": "away"},
        {"cache": "/tmp"},
        {"init": "/etc/passwd"},
        {"init": "../../passwd"},
    ):
        with pytest.raises(ValueError, match="is not inside"):
            preflight.confined(Config().with_fields(changes))
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "best.safetensors").touch()
    shipped = preflight.ASSETS / "tsm_tiny-ffn-motion.safetensors"
    mine = runs / "a" / "best.safetensors"
    for named, found in {"a/best.safetensors": mine, f"assets/{shipped.name}": shipped}.items():
        assert preflight.confined(Config().with_fields({"init": named})).network.init == str(found)
    with pytest.raises(ValueError, match="data_root: there is nothing at"):
        preflight.confined(Config().with_fields({"data_root": "nowhere"}))
    for name in ("imagenet", "ResNet50_Weights.IMAGENET1K_V2"):
        assert preflight.confined(Config().with_fields({"init": name})).network.init == name


def test_data_that_cannot_fill_a_batch_is_refused():
    with pytest.raises(ValueError, match="5 training clips do not fill one batch of 32"):
        preflight.describe_data(Config().with_fields({"clips": 5}))


@pytest.mark.slow
def test_a_step_is_measured_in_time_and_memory(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = Config().with_fields({"frames": (2, 4), "size": 32, "clips": 32, "batch_size": 4, "workers": 0})
    found = preflight.estimate(small.with_fields({"epochs": 10}), on_gpu=False)
    assert found.device == "cpu" and 0 < found.step < found.total and found.memory > 50 * 2**20
    with pytest.raises(ValueError, match=r"^A step could not be measured within 0 seconds\.$"):
        preflight.estimate(small, on_gpu=False, patience=0.01)


# --- who may change what


@pytest.mark.parametrize(
    ("variables", "allowed"),
    [
        ({}, True),
        ({"FFN_READONLY": "0"}, True),
        ({"FFN_READONLY": "1"}, False),
        ({"SPACE_ID": "me/space"}, False),
        ({"SPACE_ID": "me/space", "FFN_PASSWORD": "x"}, True),
        ({"SPACE_ID": "me/space", "FFN_PASSWORD": "x", "FFN_READONLY": "1"}, False),
    ],
)
def test_changes_are_switched_off(variables, allowed, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (access.readonly() == "") == allowed


@pytest.mark.parametrize("variables", [{"FFN_READONLY": "1"}, {"FFN_PASSWORD": "x"}])
def test_an_action_is_refused_where_it_is_done_not_only_where_it_is_shown(runs, variables, monkeypatch):
    job = add(runs)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    common.act(common.store().cancel, job.id, done="")
    assert common.store().get(job.id).state == "queued"


def test_a_dashboard_for_looking_offers_no_change(runs, monkeypatch):
    job = add(runs)
    labels = {button.label for button in open_page("job", id=job.id).button}
    assert {"Take from the queue", "Clone"} <= labels
    monkeypatch.setenv("FFN_READONLY", "1")
    assert {button.label for button in open_page("job", id=job.id).button} == {"Compare"}
    page = open_page("launch")
    assert not page.button and "FFN_READONLY" in page.info[0].value


def test_the_password_comes_before_everything(runs, monkeypatch):
    add(runs)
    monkeypatch.setenv("FFN_PASSWORD", "open sesame")
    page = open_page()
    assert [title.value for title in page.title] == ["Frame Flexible Network"] and not page.dataframe
    page.text_input[0].input("sesame")
    page.button[0].click().run()
    assert said(page) == ["This is not the password."] and not page.dataframe
    page.text_input[0].input("open sesame")
    page.button[0].click().run()
    assert [title.value for title in page.title] == ["Jobs"] and len(page.dataframe) == 1


# --- the pages


def test_stop_resume_archive_and_delete_from_the_page(runs):
    job = add(runs)
    (runs / "a").mkdir()
    page = open_page("job", id=job.id)

    def click(label):
        next(button for button in page.button if button.label == label).click().run()
        return common.store().get(job.id)

    assert click("Take from the queue").state == "cancelled"
    assert click("Resume").state == "queued" and click("Take from the queue").state == "cancelled"
    assert click("Archive").archived and not click("Unarchive").archived
    click("Delete …")
    page.checkbox[0].check().run()
    assert click("Delete").state == "cancelled" and (runs / "a").exists()  # asked once more
    with pytest.raises(KeyError):
        click("Delete for good")
    assert not (runs / "a").exists() and not page.exception


def test_stored_text_is_shown_as_text(runs):
    text = "**bold** [x](javascript:y) :red[z] :smile: $x$ `c` <b> # - _i_"
    name = "*b* [x](y) :smile: <b>"
    job = add(runs, name)
    common.store().move(job.id, ["queued"], "failed", error=text)
    page = open_page("job", id=job.id)
    assert name in [element.value for element in page.text]
    assert page.error[0].value == common.plain(text) and not page.exception
    marks = ("**", "[x]", ":red[", ":smile:", " $x", " `c", " <b")
    assert not [mark for mark in marks if mark in common.plain(text)]
    drawn = charts.lines("", {"<a href='https://x'>y</a>": [(1, 2)]}, "", "")
    assert "<" not in drawn.data[0].name


def test_a_wrong_configuration_is_one_sentence_and_nothing_starts(runs):
    page = open_page("launch")
    assert "Launch" in [button.label for button in page.button] and not page.error
    fields = {field.label: field for field in page.text_input}
    fields["Batch size"].input("0").run()
    assert said(page) == ["batch_size must be above 0, not 0"]
    assert "Launch" not in [button.label for button in page.button] and not page.exception
    fields["Batch size"].input("8").run()
    {field.label: field for field in page.text_input}["Data root"].input("nowhere").run()
    assert said(page)[0].startswith("data_root: there is nothing at")
    assert common.store().search() == []


def test_launching_puts_the_job_in_the_queue(runs):
    page = open_page("launch")
    typed = {"Name of the run": "mine", "Frames": "2 4", "Lr": "4e-3", "Clips": "64"}
    for field in page.text_input:
        if field.label in typed:
            field.input(typed[field.label])
    page.run()
    assert "--frames 2 4" in page.code[0].value and "--lr 0.004" in page.code[0].value
    next(button for button in page.button if button.label == "Launch").click().run()
    (job,) = common.store().search()
    assert job.out == str(runs / "mine") and job.command[:2] == ["--out", str(runs / "mine")]
    assert Config.from_json(job.config).frames == (2, 4) and job.state == "queued"


def test_a_recipe_fills_the_form(runs, tmp_path):
    (tmp_path / "data" / "ssv1").mkdir(parents=True)
    page = open_page("launch")
    page.selectbox[0].select("tsm-ffn-ssv1").run()
    assert {field.label: field.value for field in page.text_input}["Milestones"] == "20 40"


@pytest.mark.parametrize("page", ["", "job", "launch", "compare"])
def test_a_dead_database_is_one_sentence(page, monkeypatch):
    monkeypatch.setenv("FFN_DATABASE_URL", DEAD)
    opened = open_page(page, id=1)
    (sentence,) = said(opened)
    assert sentence.startswith("the job database postgresql+psycopg://nobody@127.0.0.1:1/jobs cannot be used")
    assert not opened.exception


def test_a_full_disk_is_one_sentence(runs):
    add(runs)
    store = common.store()
    store.engine.dispose()

    @event.listens_for(store.engine, "connect")
    def no_more(connection, _record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    common.act(lambda: [add(runs, f"b{i}") for i in range(100)], done="")
    well, sentence, _ = common.st.session_state["outcome"]
    assert not well and "database or disk is full" in sentence and "\n" not in sentence


def test_an_address_without_a_job(runs):
    assert said(open_page("job")) == ["The address names no job: choose one on the page Jobs."]
    assert said(open_page("job", id=7)) == ["there is no job 7"]


# --- what lies in a run folder


def test_results_and_logs_are_read_with_care(runs, tmp_path):
    job = add(runs)
    assert folder.results(job) == {} and folder.log_tail(job, 5) == "" and folder.confusion(job, 4) == ([], [])
    (runs / "a").mkdir()
    (runs / "a" / "results.json").write_text("{half")
    (tmp_path / "secret").write_text("secret")
    (runs / "a" / "log.txt").symlink_to(tmp_path / "secret")
    assert folder.results(job) == {} and folder.log_tail(job, 5) == ""
    (runs / "a" / "log.txt").unlink()
    (runs / "a" / "log.txt").write_bytes(b"one\r\ntwo 10%\rtwo 99%\r\n\x1b[31mred\x1b[0m <b>\xff\n")
    (runs / "a" / "results.json").write_text(json.dumps({"accuracy": {"4": 50}, "paper": None}))
    assert folder.results(job)["accuracy"] == {4: 50.0} and folder.results(job)["paper"] == {}
    assert folder.log_tail(job, 3) == "two 99%\nred <b>\ufffd"
    outside = Config(out=tmp_path / "elsewhere")
    assert folder.log_tail(common.store().add(outside), 5) == ""


def test_an_address_of_jobs_to_compare_counts_each_time(runs):
    first, second = add(runs, "a").id, add(runs, "b").id
    page = open_page("compare", ids=first)
    assert page.multiselect[0].value == [first]
    page.query_params["ids"] = str(second)
    assert page.run().multiselect[0].value == [second]


def test_one_bad_file_leaves_the_other_tabs(runs):
    job = add(runs)
    (runs / "a").mkdir(parents=True)
    (runs / "a" / "results.json").write_text(json.dumps({"accuracy": {"4": 50}, "frames": [4]}))
    (runs / "a" / "confusion_4.csv").write_text("label,a\na,many\n")
    (runs / "a" / "run.log").write_text("all is well\n")
    page = open_page("job", id=job.id)
    assert "invalid literal" in said(page)[0]
    assert any("all is well" in code.value for code in page.code)
    assert any("queued" in text.value for text in page.text)


def test_only_networks_that_the_demo_finds_lead_to_it(runs):
    for name in ("a", "deep/b"):
        job = add(runs, name)
        (runs / name).mkdir(parents=True)
        (runs / name / "best.safetensors").write_bytes(b"x")
        links = [link for link in open_page("job", id=job.id).main if link.type == "link_button"]
        assert len(links) == (name == "a")


def test_jobs_that_are_all_archived_are_not_missed(runs):
    job = add(runs)
    common.store().cancel(job.id)
    common.store().archive(job.id)
    assert any("Every job is in the archive" in caption.value for caption in open_page().caption)


def test_what_a_running_job_takes(runs):
    me = psutil.Process()
    job = add(runs)
    job.state, job.host, job.pid, job.pid_started = "running", socket.gethostname(), me.pid, me.create_time()
    assert usage.usage(job).keys() == {"CPU", "Memory"}
    job.pid_started -= 100  # somebody else's process by now
    assert usage.usage(job) == {}


def test_a_hundred_jobs_with_a_hundred_thousand_rows_stay_quick(runs):
    made = [add(runs, f"job-{i}") for i in range(100)]
    with common.store().changing() as session:
        for job in made:
            save_metrics(
                session,
                [
                    {"job_id": job.id, "name": name, "frames": count, "step": step, "epoch": 1, "value": 1.0}
                    for name in ("loss_ce", "loss_kl", "top1")
                    for count in (4, 8, 16)
                    for step in range(111 if job != made[-1] else 11_111)
                ],
            )
    seconds = {}
    for what, look in {
        "table": lambda: jobs.rows(common.store().search()),
        "curves": lambda: common.store().series(made[-1].id),
    }.items():
        times = []
        for _ in range(3):
            started = time.process_time()
            shown = look()
            times.append(time.process_time() - started)
        seconds[what] = min(times)
        assert len(shown) in (100, 9)
    assert all(len(points) <= 500 for points in shown.values())
    assert seconds["table"] < 0.5 and seconds["curves"] < 1, seconds


@pytest.mark.slow
def test_everything_starts_and_ends_at_once(tmp_path):
    port = free_port()
    process = start("app", log=tmp_path / "log.txt", PORT=str(port))
    try:
        for address in (f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 100}/_stcore/health"):
            wait_until_it_answers(process, address)
        family = psutil.Process(process.pid).children(recursive=True)
        names = " ".join(part for child in family for part in child.cmdline())
        assert "app.demo" in names and "dashboard.py" in names and "trainers.worker" in names
        process.terminate()
        process.wait(60)
        assert psutil.wait_procs(family, timeout=20)[1] == []
    finally:
        kill(process)
