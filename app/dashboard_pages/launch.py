"""Launch a job: a form of every setting, the command it comes to, what it will take, and the button."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import streamlit as st
import torch

from app.dashboard_pages import access, common, form, preflight
from trainers.config import Config
from trainers.jobs.paths import confine, runs_folder
from trainers.recipes import RECIPES

DEFAULTS = "Defaults"
LONGEST = 100  # characters of a run's name
_measuring = threading.Lock()


def show() -> None:
    st.title("Launch a job", anchor=False)
    if access.readonly():
        st.info(access.readonly())
        return
    base, key = _base()
    left, right = st.columns([3, 2], gap="large")
    with left:
        typed_name = st.text_input(
            "Name of the run", key=f"{key}.name", persist_state="session", placeholder="default",
            help=common.plain(f"Its folder in {runs_folder()}"),
        )  # fmt: skip
        config = None
        with common.one_sentence():
            config = base.with_fields(form.draw(base, key))
    with right:
        where = _where()
        if config is not None:
            _review(config, typed_name, where)


def _base() -> tuple[Config, str]:
    """The settings the form starts with, and the form's name."""
    of = st.query_params.get("of", "")
    copied = [f"Copy of job {int(of)}"] if of.isdigit() else []
    options = [*copied, DEFAULTS, *RECIPES]
    what = "Recipes are the paper's own results."
    start = st.selectbox("Start from", options, key=f"start-{of}", persist_state="session", help=what)
    if start == DEFAULTS:
        return Config(), start
    if start in RECIPES:
        return Config.from_recipe(start), start
    stored = Config.from_json(common.store().get(int(of)).config)
    return replace(stored, out=None, resume="never"), start


def _where() -> dict:
    """The devices it asks for: arguments of :meth:`Store.add`."""
    gpus = torch.cuda.device_count()
    if shutil.which("sbatch") and st.selectbox("Runs on", ["this machine", "SLURM"], key="cluster") == "SLURM":
        columns = st.columns(2)
        devices = columns[0].number_input("GPUs per node", 0, 64, 0, key="slurm-gpus")
        return {"cluster": "slurm", "devices": devices, "nodes": columns[1].number_input("Nodes", 1, 64, 1)}
    options = ["CPU", *(f"{n} GPU{'s'[: n > 1]}" for n in range(1, gpus + 1))]
    device = st.selectbox(
        "Device", options, index=min(1, gpus), key="device", help="The worker waits until they are free."
    )
    return {"devices": options.index(device)}


def _review(config: Config, typed_name: str, where: dict) -> None:
    """The command or what is wrong with it, and the buttons."""
    with common.one_sentence():
        config = complete(config, typed_name)
        st.caption("Command")
        common.command(config.command())
        with st.container(horizontal=True):
            if st.button("Launch", type="primary", icon=":material/rocket_launch:"):
                _launch(config, where)
            if st.button("Estimate", icon=":material/timer:", help="Measures a step, taken as the run would."):
                _estimate(config, where)
            if st.button("Check data", icon=":material/folder_open:"):
                st.success(common.plain(preflight.describe_data(config)) + ".")
        known = st.session_state.get("estimate")
        if known and known[0] == _identity(config, where):
            _show_estimate(known[1])


def complete(config: Config, typed_name: str) -> Config:
    """Checked, with the run's folder, its paths confined.

    Raises:
        ValueError: with one sentence, if it cannot run.
    """
    config = preflight.confined(config).resolved()
    usual = config.recipe or f"{config.model}-{config.method}-{config.dataset.data}"
    return replace(config, out=named(typed_name.strip()) if typed_name.strip() else free_folder(usual))


def named(name: str) -> Path:
    """The folder of a new run of that name. Raises ValueError if it cannot be or is taken."""
    if len(name) > LONGEST or name.startswith((".", "-")) or "/" in name or not name.isprintable():
        raise ValueError(f"{name[:LONGEST]!r} cannot be a run's name: give a folder's name such as tsm-lr3")
    folder = confine(name, runs_folder())
    if _taken(folder):
        raise ValueError(f"There is a run named {name} already; choose another name.")
    return folder


def free_folder(usual: str) -> Path:
    """A folder of that name, or with the next free number behind it."""
    number, folder = 1, runs_folder() / usual
    while _taken(folder):
        number += 1
        folder = runs_folder() / f"{usual}-{number}"
    return folder


def _taken(folder: Path) -> bool:
    return folder.exists() or bool(common.store().search(out=[str(folder)], archived=None, limit=1))


def _launch(config: Config, where: dict) -> None:
    added = []

    def add() -> None:
        preflight.describe_data(config)
        added.append(common.store().add(config, **where))

    with st.spinner("Checking the data set"):
        common.act(add, done="It is in the queue: a worker takes it when its devices are free.")
    if added:
        common.go("job", id=added[0].id)
    common.show_outcome()


def _estimate(config: Config, where: dict) -> None:
    access.check_change()
    if not _measuring.acquire(blocking=False):
        raise ValueError("Another estimate is being measured; try again in a minute.")
    try:
        with st.spinner("Taking a step", show_time=True):
            found = preflight.estimate(config, on_gpu=where["devices"] > 0)
    finally:
        _measuring.release()
    st.session_state["estimate"] = _identity(config, where), found


def _identity(config: Config, where: dict) -> tuple:
    return config.to_json(), *where.values()


def _show_estimate(found: preflight.Estimate) -> None:
    with st.container(horizontal=True):
        st.metric("Whole run, about", common.duration(found.total), width="content")
        st.metric("A step", f"{found.step:.2f} s", width="content")
        st.metric("Its clips", f"{found.loading:.2f} s", width="content")
        st.metric("Memory", f"{found.memory / 2**30:.1f} GB", width="content")
    st.caption(f"Measured on {common.plain(found.device)}, with what else this machine is doing now.")
