"""One job: its curves, results, log and settings, and what can be done with it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st

from app.dashboard_pages import access, charts, common, folder, usage
from trainers.config import Config
from trainers.jobs.paths import runs_folder
from trainers.jobs.store import RESUMABLE
from trainers.jobs.tables import Job

NAMES = ("loss_ce", "loss_kl", "ce", "kl", "top1", "gap", "lr", "seconds")
LINES = (15, 100, 1000)
FIGURES = (  # title, the metrics it may show (the first that there is), unit
    ("Cross-entropy", ("loss_ce", "ce"), "loss"),
    ("Distillation (KL)", ("loss_kl", "kl"), "loss"),
    ("Top-1 accuracy", ("top1",), "%"),
    ("Deviation gap", ("gap",), "points"),
    ("Learning rate", ("lr",), ""),
)
HOLD = "For a closer look: a new point takes a curve back to its full view."
SEVERAL = ("Distillation (KL)", "Deviation gap")
"""figures of runs at several frame counts"""


def show() -> None:
    asked = st.query_params.get("id", "")
    if not asked.isdigit():
        raise ValueError("The address names no job: choose one on the page Jobs.")
    job_id = int(asked)
    job = common.store().get(job_id)
    st.title(f"Job {job_id}", anchor=False)
    _watch(job_id)
    _settings(job)


@common.live
def _watch(job_id: int) -> None:
    job = common.store().get(job_id)
    curves = common.store().series(job_id, NAMES)
    # Containers keep their places when what they hold comes and goes: else what follows would be made anew,
    # and lose the tab that is open.
    with st.container():
        _head(job, curves)
    with st.container():
        common.show_outcome()
    with st.container():
        _actions(job)
    curves_tab, results_tab, log_tab, events_tab = st.tabs(["Curves", "Results", "Log", "Events"])
    with curves_tab, common.one_sentence():
        _curves(job, curves)
    with results_tab, common.one_sentence():
        _results(job)
    with log_tab, common.one_sentence():
        _log(job)
    with events_tab, common.one_sentence():
        for event in reversed(common.store().events(job_id)):
            st.text(f"{common.when(event.time)}  {event.kind}  {event.text}")


def _head(job: Job, curves: dict) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        common.badge(job)
        st.text(common.name(job), width="content")
        st.caption(common.plain(f"{job.model} · {job.method} · {job.data}"), width="content")
    if job.error:
        st.error(common.plain(job.error))
    seconds = curves.get(("seconds", 0))
    left = common.seconds_left(job, seconds[-1][1] if seconds else None)
    text = f"epoch {job.epoch} of {job.epochs}"
    if job.steps:
        text += f" · step {job.step:,} of {job.steps:,}"
    if left is not None:
        text += f" · about {common.duration(left)} left"
    st.progress(job.progress, text=text)
    latest = {frames: points[-1][1] for (name, frames), points in sorted(curves.items()) if name == "top1"}
    figures = {f"Top-1, {frames} frames": f"{value:.1f} %" for frames, value in latest.items()}
    if job.best is not None:
        figures["Best mean"] = f"{job.best:.1f} %"
    if len(latest) > 1:
        figures["Deviation gap"] = f"{max(latest.values()) - min(latest.values()):.1f}"
    figures |= usage.usage(job)
    if figures:
        with st.container(horizontal=True):
            for label, value in figures.items():
                st.metric(label, value, width="content")


def _actions(job: Job) -> None:
    key = f"-{job.id}"
    with st.container(horizontal=True, gap="small"):
        if not access.readonly():
            _buttons(job, key)
        if checkpoint := folder.find(job, "best.safetensors"):
            _download(checkpoint, "Checkpoint", f"{common.name(job)}.safetensors", key)
            if Path(job.out).parent == runs_folder():  # where the demo looks for networks
                st.link_button("Open in the demo", demo_url(job), icon=":material/open_in_new:")
        if metrics := folder.find(job, "metrics.csv"):
            _download(metrics, "CSV", f"{common.name(job)}.csv", key)
        if st.button("Compare", key="compare" + key, icon=":material/compare_arrows:"):
            common.go("compare", ids=job.id)
    if st.session_state.get("deleting") == job.id:
        _ask_to_delete(job, key)


def _buttons(job: Job, key: str) -> None:
    store = common.store()
    if job.state in ("queued", "running"):
        words = "Take from the queue" if job.state == "queued" else "Stop"
        done = "It is asked to save its state and stop." if job.state == "running" else "It will not start."
        _button(words, "stop" + key, ":material/stop:", store.cancel, job.id, done=done)
    if job.state in RESUMABLE:
        done = "It is back in the queue, to go on from its last checkpoint."
        _button("Resume", "resume" + key, ":material/play_arrow:", store.resume, job.id, done=done)
    if st.button("Clone", key="clone" + key, icon=":material/content_copy:", help="Launch an edited copy."):
        common.go("launch", of=job.id)
    if common.is_over(job):
        words, icon = ("Unarchive", "unarchive") if job.archived else ("Archive", "archive")
        args = (store.archive, job.id, not job.archived)
        _button(words, "archive" + key, f":material/{icon}:", *args, done="Done.")
        ask = {"deleting": job.id, "sure": False}
        _set("Delete …", "delete" + key, ask, icon=":material/delete:")


def _button(label: str, key: str, icon: str, action, *args, done: str) -> None:
    st.button(label, key=key, icon=icon, on_click=common.act, args=(action, *args), kwargs={"done": done})


def _ask_to_delete(job: Job, key: str) -> None:
    """Twice: first what to delete, then whether that is meant."""
    with st.container(border=True):
        files = st.checkbox("Delete the files of its run folder too", key="files" + key)
        st.text(job.out)
        sure = st.session_state.get("sure")
        if sure:
            st.warning(f"Nothing brings {'it and its files' if files else 'it'} back. Is that meant?")
        with st.container(horizontal=True):
            if not sure:
                _set("Delete", "first" + key, {"sure": True})
            elif st.button("Delete for good", key="really" + key, type="primary"):
                _delete(job, files)
            _set("Keep it", "keep" + key, {"deleting": None})


def _set(label: str, key: str, values: dict, **look) -> None:
    """A button that only changes what this page remembers."""
    st.button(label, key=key, on_click=st.session_state.update, args=(values,), **look)


def _delete(job: Job, files: bool) -> None:
    common.act(lambda: common.store().delete(job.id, files=files), done="Deleted.")
    st.session_state["deleting"] = None
    if st.session_state["outcome"][0]:
        common.go("jobs")


def _download(path, label: str, file_name: str, key: str) -> None:
    st.download_button(
        f"{label}, {folder.size(path)}",
        path.read_bytes,  # read when it is asked for
        file_name,
        key=label + key,
        icon=":material/download:",
        on_click="ignore",
    )


def demo_url(job: Job) -> str:
    """Where the demo shows this job's network."""
    return f"{os.environ.get('FFN_DEMO_URL') or _demo()}/?{urlencode({'network': common.name(job)})}"


def _demo() -> str:
    # Started by honcho, the demo is the line above this one: a hundred ports below.
    port = int(os.environ["PORT"]) - 100 if os.environ.get("HONCHO_PROCESS_NAME") else 7860
    return f"http://127.0.0.1:{port}"


def _curves(job: Job, curves: dict) -> None:
    if not curves:
        st.info("Curves appear with the first steps.")
        return
    curves = _held(job, curves)
    steps = job.steps / job.epochs if job.steps and job.epochs else 1
    frames = Config.from_json(job.config).frames or ()
    colours = charts.frequency_colours({*frames, *(count for _, count in curves if count)})
    shown = [figure for figure in FIGURES if len(frames) > 1 or figure[0] not in SEVERAL]
    columns = st.columns(2)
    for i, (title, names, unit) in enumerate(shown):
        lines = next(filter(None, (_curves_of(curves, name, steps) for name in names)), {})
        with columns[i % 2]:
            figure = charts.lines(title, lines, "epoch", unit, colours=colours)
            charts.show(figure, f"{title}-{job.id}", f"{title} over epochs")


def _held(job: Job, curves: dict) -> dict:
    """The curves as they were when the visitor asked them to hold still: Streamlit makes a figure with a new
    point anew, without what was zoomed and hidden in it."""
    key = f"held-{job.id}"
    if not common.is_over(job) and st.toggle("Hold still", key=f"hold-{job.id}", help=HOLD):
        return st.session_state.setdefault(key, curves)
    st.session_state.pop(key, None)
    return curves


def _curves_of(curves: dict, name: str, steps: float) -> dict[str, list]:
    """A metric's curves over epochs by their labels."""
    found = {frames: points for (n, frames), points in sorted(curves.items()) if n == name}
    if name == "gap":  # one number, noted at each frame count
        found = {0: next(iter(found.values()))} if found else {}
    return {f"{n} frames" if n else name: [(s / steps, v) for s, v in p] for n, p in found.items()}


def _results(job: Job) -> None:
    results = folder.results(job)
    if not results:
        st.info("Results appear when the run is done: accuracy over frame counts and the confusion matrix.")
        return
    figure = charts.lines("", {common.name(job): sorted(results["accuracy"].items())}, "frames", "top-1 (%)")
    if results["paper"]:
        charts.add_paper(figure, "paper", sorted(results["paper"].items()))
    charts.show(figure, f"accuracy-{job.id}", "Top-1 accuracy over frame counts")
    with st.container(horizontal=True):
        if "gap" in results and results["accuracy"]:
            counts = f"{min(results['accuracy'])} to {max(results['accuracy'])} frames"
            st.metric(f"Gap over {counts}", f"{results['gap']:.1f} points", width="content")
        if "parameters" in results:
            st.metric("Parameters", f"{results['parameters']:,}", width="content")
        if "clips" in results:
            st.metric("Validation clips", f"{results['clips']:,}", width="content")
    frames = st.selectbox("Confusion at", results.get("frames") or [], key=f"confusion-frames-{job.id}")
    names, counts = folder.confusion(job, frames) if frames else ([], [])
    if names:
        charts.show(charts.confusion(names, counts), f"confusion-{job.id}", "Confusion matrix")


def _log(job: Job) -> None:
    lines = st.segmented_control("Lines", LINES, default=LINES[0], key=f"lines-{job.id}") or LINES[0]
    text = folder.log_tail(job, lines)
    if text:
        st.code(text, language=None, wrap_lines=True, height=480 if lines > LINES[0] else "content")
    else:
        st.info("The log appears when the run has started.")


def _settings(job: Job) -> None:
    with st.expander("Command and configuration"):
        common.command(job.command)
        where = f"on {job.host}, process {job.pid}" if job.host else "nowhere yet"
        devices = f"{job.devices} GPUs" if job.devices else "CPU"
        st.text(f"{devices}, {job.cluster}, {where}\n{job.out}")
        st.code(Config.from_json(job.config).to_json(), language="json")
