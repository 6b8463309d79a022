"""What all pages share: the store, live parts, actions, and stored text shown as text."""

from __future__ import annotations

import logging
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps

import streamlit as st

from app.dashboard_pages import access
from trainers.jobs.database import database_url
from trainers.jobs.store import Store
from trainers.jobs.tables import FINISHED, Job, now

log = logging.getLogger(__name__)

REFRESH = 2  # seconds between two looks at the jobs
SHOWN = 20  # seconds that the outcome of an action stays on the page
STATES = {  # state: colour and icon
    "queued": ("gray", ":material/hourglass_empty:"),
    "running": ("blue", ":material/play_arrow:"),
    "stopping": ("orange", ":material/pending:"),
    "succeeded": ("green", ":material/check:"),
    "failed": ("red", ":material/error:"),
    "cancelled": ("gray", ":material/stop:"),
}


def store() -> Store:
    return _open(database_url())


@st.cache_resource(show_spinner=False)
def _open(url: str) -> Store:
    return Store(url, patience=5)


def plain(text: object) -> str:
    """``text`` for a place that reads Markdown, which shows it as it is."""
    one_line = " ".join(str(text).split())
    unpictured = re.sub(r":(?=[\w+/-]+:)", ":\u2060", one_line)  # ":name:" is a picture, even escaped
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", unpictured)


@contextmanager
def one_sentence() -> Iterator[None]:
    """What goes wrong within is shown as one sentence; what should never go wrong, in the log too."""
    try:
        yield
    except (ValueError, OSError, KeyError) as error:
        st.error(plain(sentence(error)))
    except Exception:
        log.exception("a page failed")
        st.error("This part could not be shown; the dashboard's log says why.")


def sentence(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def guarded(show: Callable) -> Callable:
    @wraps(show)
    def run(*args):
        with one_sentence():
            show(*args)

    return run


def live(show: Callable) -> Callable:
    """A part of a page that draws itself anew every REFRESH seconds, and leaves the rest alone."""
    return st.fragment(guarded(show), run_every=REFRESH)


def act(action: Callable, *args, done: str) -> None:
    """Do what a button asks for, if this visitor may; what comes of it is kept for :func:`show_outcome`."""
    try:
        access.check_change()
        action(*args)
        outcome = (True, done)
    except (ValueError, OSError, KeyError) as error:
        outcome = (False, sentence(error))
    st.session_state["outcome"] = (*outcome, time.monotonic() + SHOWN)


def show_outcome() -> None:
    well, text, until = st.session_state.get("outcome", (True, "", 0))
    if time.monotonic() < until:
        (st.success if well else st.error)(plain(text))


def go(page: str, **query: object) -> None:
    """Leave for another page: from the next run of the whole script, as a live part cannot."""
    st.session_state["go"] = page, {name: str(value) for name, value in query.items()}
    st.rerun()


def follow(pages: dict[str, st.Page]) -> None:
    """Leave for where :func:`go` was asked to."""
    if asked := st.session_state.pop("go", None):
        page, query = asked
        st.switch_page(pages[page], query_params=query)


def name(job: Job) -> str:
    return job.out.rstrip("/").rpartition("/")[2]


def badge(job: Job) -> None:
    colour, icon = STATES[job.state]
    st.badge(job.state, color=colour, icon=icon)


def command(arguments: list[str]) -> None:
    """The command line that starts a run; nothing here goes through a shell, but people paste it into one."""
    st.code(shlex.join(["python", "-m", "trainers.run", *arguments]), language="bash", wrap_lines=True)


def duration(seconds: float) -> str:
    """As in "45 s", "12 min" or "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"


def seconds_left(job: Job, epoch_seconds: float | None) -> float | None:
    """By the time of its last epoch, or by what it has done since it started; None if nobody can tell."""
    if job.state != "running" or not job.steps:
        return None
    if epoch_seconds:
        return epoch_seconds * job.epochs * (1 - job.progress)
    if job.progress and job.started and not job.resumes:
        return (now() - job.started).total_seconds() * (1 / job.progress - 1)
    return None


def when(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""


def is_over(job: Job) -> bool:
    return job.state in FINISHED
