"""The job store, on SQLite and on PostgreSQL."""

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from job_configs import make_config
from job_processes import claim_all, open_and_count

from trainers.config import Config
from trainers.jobs.database import DatabaseDown
from trainers.jobs.paths import confine
from trainers.jobs.store import Store, save_metrics
from trainers.jobs.tables import Base

RECIPE = "tsm-ffn-ssv1"
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(database):
    store = Store(database)
    yield store
    store.close()


def config(tmp_path, name="a", **changes):
    return make_config(tmp_path / "runs" / name, **changes)


def rows(job, count, name="loss_ce", frames=16, epoch=1):
    return [
        {"job_id": job.id, "name": name, "frames": frames, "step": i, "epoch": epoch, "value": float(i)}
        for i in range(1, count + 1)
    ]


def test_the_migrations_make_the_tables(store):
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_paths_are_told_from_anywhere(store, tmp_path, monkeypatch):
    """The worker may run in another folder than the one that a job was asked for in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.safetensors").touch()
    job = store.add(config(tmp_path, data="folder", data_root="clips", init="start.safetensors"))
    stored = Config.from_json(job.config)
    assert stored.dataset.data_root == tmp_path / "clips"
    assert stored.network.init == str(tmp_path / "start.safetensors")
    assert str(tmp_path / "clips") in job.command


def test_several_processes_make_the_database_at_once(database):
    with ProcessPoolExecutor(4, SPAWN) as pool:
        assert list(pool.map(open_and_count, [database] * 4)) == [0] * 4


def test_what_is_stored_is_what_comes_back(store, tmp_path):
    asked = config(tmp_path, frames=(4, 8), recipe=RECIPE)
    job = store.get(store.add(asked, devices=2).id)
    assert Config.from_json(job.config) == asked and job.config == asked.to_json()
    assert job.command == asked.command() and job.out == str(tmp_path / "runs" / "a")
    assert (job.state, job.model, job.recipe, job.devices) == ("queued", "tsm_tiny", RECIPE, 2)
    assert job.created.utcoffset().total_seconds() == 0 and job.given is None
    assert [event.kind for event in store.events(job.id)] == ["queued"]
    with pytest.raises(KeyError, match="no job 99"):
        store.get(99)


def test_nothing_impossible_is_queued(store, tmp_path):
    with pytest.raises(ValueError, match="epochs must be above 0"):
        store.add(config(tmp_path, epochs=0))
    with pytest.raises(ValueError, match="several nodes need GPUs and a cluster"):
        store.add(config(tmp_path), nodes=2)
    store.add(config(tmp_path))
    with pytest.raises(ValueError, match="belongs to job 1, which is queued"):
        store.add(config(tmp_path))
    assert len(store.search()) == 1


def test_jobs_are_claimed_in_order_and_no_device_twice(store, tmp_path):
    jobs = [store.add(config(tmp_path, str(i)), devices=n) for i, n in enumerate((0, 2, 1, 0, 1, 8))]
    gpus = (0, 1, 2)
    taken = []
    while job := store.claim("here", gpus, cpu_jobs=1):
        taken.append((job.id, job.given))
    first, two, one, second, last, huge = (job.id for job in jobs)
    assert taken == [(first, []), (two, [0, 1]), (one, [2])]
    assert store.move(first, ["running"], "succeeded") and store.move(one, ["running"], "failed", error="x")
    assert [store.claim("here", gpus).id for _ in range(2)] == [second, last]
    assert store.claim("here", gpus) is None
    assert store.claim("elsewhere", range(8)).id == huge


def test_the_gpu_of_a_run_by_hand_is_not_given(store, tmp_path):
    by_hand, queued = store.add(config(tmp_path, "a")), store.add(config(tmp_path, "b"), devices=1)
    store.move(by_hand.id, ["queued"], "running", host="here", given=["0"])
    assert store.claim("here", ("0",)) is None
    assert store.claim("here", ("0", "1")).given == ["1"] and store.get(queued.id).host == "here"


def test_a_big_job_is_not_overtaken(store, tmp_path):
    one, two, small = (
        store.add(config(tmp_path, name), devices=n) for name, n in zip("abc", (1, 2, 1), strict=True)
    )
    assert store.claim("here", (0, 1)).id == one.id
    assert store.claim("here", (0, 1)) is None
    store.move(one.id, ["running"], "succeeded")
    assert store.claim("here", (0, 1)).id == two.id
    assert store.claim("here", (0, 1)) is None and store.get(small.id).state == "queued"


def test_two_workers_never_take_one_job(store, database, tmp_path):
    jobs = [store.add(config(tmp_path, str(i))).id for i in range(40)]
    with ProcessPoolExecutor(4, SPAWN) as pool:
        taken = list(pool.map(claim_all, [database] * 4, range(4)))
    assert sorted(itertools.chain(*taken)) == jobs


def test_cancel_resume_and_the_states_between(store, tmp_path):
    waiting, job = store.add(config(tmp_path, "w")), store.add(config(tmp_path))
    store.cancel(waiting.id)
    assert store.get(waiting.id).state == "cancelled"
    with pytest.raises(ValueError, match="is queued; only a failed or cancelled job"):
        store.resume(job.id)
    assert store.claim("here").id == job.id
    store.cancel(job.id)
    store.cancel(job.id)  # asked twice: nothing new
    stopping = store.get(job.id)
    assert stopping.state == "stopping" and store.asked_to_stop(stopping) is None
    assert [store.claim_stop(stopping, "SIGTERM") for _ in range(2)] == [True, False]
    assert store.asked_to_stop(stopping) >= stopping.started
    assert store.move(job.id, ["stopping"], "cancelled", exit_code=75)
    assert not store.move(job.id, ["running", "stopping"], "failed")  # it is over already
    store.cancel(job.id)
    store.archive(job.id)
    store.resume(job.id)
    again = store.get(job.id)
    assert (again.state, again.resumes, again.exit_code, again.pid, again.archived) == (
        "queued",
        1,
        None,
        None,
        False,
    )
    assert [e.kind for e in store.events(job.id)] == ["queued", "stop", "signal", "cancelled", "queued"]
    assert store.claim("here").id == job.id
    store.move(job.id, ["running"], "succeeded")
    with pytest.raises(ValueError, match="is succeeded"):
        store.resume(job.id)


def test_deleting_takes_only_what_it_should(store, tmp_path):
    inside, outside = store.add(config(tmp_path)), store.add(make_config(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="is queued; stop it before you delete it"):
        store.delete(inside.id)
    for job in (inside, outside):
        store.cancel(job.id)
        (tmp_path / job.out).mkdir(parents=True)
        (tmp_path / job.out / "last.pt").touch()
        with store.changing() as session:
            save_metrics(session, rows(job, 3))
    with pytest.raises(ValueError, match="is not inside"):
        store.delete(outside.id, files=True)
    store.delete(outside.id)
    store.delete(inside.id, files=True)
    assert (tmp_path / "elsewhere" / "last.pt").exists() and not (tmp_path / "runs" / "a").exists()
    assert store.search() == [] and store.series(inside.id) == {} and store.events(inside.id) == []
    assert store.add(config(tmp_path)).id > outside.id  # the number of a deleted job is not given again


def test_search_and_filters(store, tmp_path):
    first = store.add(config(tmp_path, "100%_first", recipe=RECIPE))
    second = store.add(config(tmp_path, "second", method="plain", frames=(8,)))
    store.claim("here")
    ids = lambda **query: [job.id for job in store.search(**query)]  # noqa: E731
    assert ids() == [second.id, first.id] and ids(limit=1) == [second.id]
    assert (
        ids(words="SSV1 tiny") == ids(words="100%") == ids(states=["running"]) == ids(words="#1") == [first.id]
    )
    assert ids(words="%") == [first.id] and ids(words="' OR 1=1 --") == []
    assert ids(method=["plain"]) == [second.id] and ids(method=["ffn", "plain"]) == ids()
    store.cancel(second.id)
    store.archive(second.id)
    assert ids() == [first.id] and ids(archived=True) == [second.id] and ids(archived=None) == [2, 1]
    assert store.values("method") == ["ffn", "plain"] and store.values("recipe") == [RECIPE]
    assert store.count()["running"] == 1 and store.count()["cancelled"] == 0


def test_curves_are_thinned_by_the_database(store, tmp_path):
    job, other = store.add(config(tmp_path)), store.add(config(tmp_path, "b"))
    with store.changing() as session:
        save_metrics(session, rows(job, 10_000) + rows(job, 10_000, frames=4) + rows(other, 5))
        save_metrics(session, [row | {"value": 7.0} for row in rows(job, 3, "top1")])
    curves = store.series(job.id, points=100)
    assert set(curves) == {("loss_ce", 4), ("loss_ce", 16), ("top1", 16)}
    curve = curves["loss_ce", 16]
    assert len(curve) == 100 and curve[-1][0] == 10_000
    assert all(abs(step - value) < 100 for step, value in curve)  # means of their own piece, in order
    assert store.series(job.id, ["top1"]) == {("top1", 16): [(1, 7.0), (2, 7.0), (3, 7.0)]}
    assert store.series(other.id, points=100)["loss_ce", 16] == [(i, float(i)) for i in range(1, 6)]


def test_writing_a_row_twice_changes_nothing(store, tmp_path):
    job = store.add(config(tmp_path))
    for value in (1.0, 2.0):
        with store.changing() as session:
            save_metrics(session, [row | {"value": value} for row in rows(job, 3) + rows(job, 3)])
    assert store.series(job.id) == {("loss_ce", 16): [(1, 2.0), (2, 2.0), (3, 2.0)]}


def test_latest_accuracies(store, tmp_path):
    job, empty = store.add(config(tmp_path)), store.add(config(tmp_path, "b"))
    with store.changing() as session:
        save_metrics(session, rows(job, 5, "top1", 16) + rows(job, 3, "top1", 4) + rows(job, 9, "top5", 4))
    assert store.latest([job.id, empty.id]) == {job.id: {4: 3.0, 16: 5.0}, empty.id: {}}


@pytest.mark.parametrize(
    ("url", "error", "sentence"),
    [
        (
            "postgresql://me:secret@127.0.0.1:1/jobs",
            DatabaseDown,
            "me:\\*\\*\\*@127.0.0.1:1/jobs cannot be used",
        ),
        ("sqlite:////proc/nowhere/jobs.db", DatabaseDown, "cannot be made"),
        ("nonsense", ValueError, "FFN_DATABASE_URL cannot be used"),
        ("oracle+nothing://x", ValueError, "FFN_DATABASE_URL cannot be used"),
    ],
)
def test_a_dead_database_is_one_sentence(url, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        Store(url, patience=1)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_paths_stay_inside(tmp_path):
    runs, other = tmp_path / "runs", tmp_path / "other"
    runs.mkdir()
    other.mkdir()
    (runs / "link").symlink_to(other)
    assert confine("a/b", runs) == runs / "a" / "b" and confine(runs / "a", (other, runs)) == runs / "a"
    assert confine(runs, runs, itself=True) == runs
    for path in ("../other", "/etc", "link/a", ".", runs, "a/../../other", "a\0b"):
        with pytest.raises(ValueError):
            confine(path, runs)
