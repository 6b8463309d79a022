"""All jobs: a live table, filters, search. A click on a row opens its job."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.dashboard_pages import access, common
from trainers.jobs.tables import STATES, Job

FILTERS = ("model", "data", "method")
MARKS = {"queued": "○", "running": "▶", "stopping": "◐", "succeeded": "✓", "failed": "✗", "cancelled": "■"}


def show() -> None:
    st.title("Jobs", anchor=False)
    if access.readonly():
        st.caption(access.readonly())
    chosen = _filters()
    _table(chosen)


def _filters() -> dict:
    """What :meth:`Store.search` is to look for. The address keeps it."""
    store = common.store()
    words = st.text_input(
        "Search",
        key="q",
        bind="query-params",
        placeholder="Search in names, models, data, recipes, errors; #7 is job 7",
        label_visibility="collapsed",
        icon=":material/search:",
    )
    columns = st.columns([2, *[1] * len(FILTERS), 0.9], vertical_alignment="center")
    with columns[0]:
        states = _choose("state", list(STATES))
    fields = {}
    for column, field in zip(columns[1:], FILTERS, strict=False):
        with column:
            if values := _choose(field, store.values(field)):
                fields[field] = values
    with columns[-1]:
        archived = st.toggle("Archive", key="archived", bind="query-params", help="Show what was put away.")
    return {"words": words or "", "states": states or STATES, "archived": archived, **fields}


def _choose(field: str, values: list[str]) -> list[str]:
    placeholder = f"Any {field}"
    return st.multiselect(field, values, key=field, placeholder=placeholder, label_visibility="collapsed")


@common.live
def _table(chosen: dict) -> None:
    store = common.store()
    jobs = store.search(**chosen)
    shown = [f"{count} {state}" for state, count in store.count().items() if count]
    if shown:
        st.caption(", ".join(shown))
    elif store.search(archived=True, limit=1):
        st.caption("Every job is in the archive.")
    else:
        st.caption("No job yet: launch one, or start python -m trainers.run.")
    if not jobs:
        if shown:
            st.info("No job fits these filters.")
        return
    ids = [job.id for job in jobs]
    before = st.session_state.get("table_ids", ids)
    st.session_state["table_ids"] = ids
    table = rows(jobs)
    event = st.dataframe(
        table,
        key="table",
        hide_index=True,
        height=min(38 + 35 * len(jobs), 720),
        on_select="rerun",
        selection_mode="single-cell",
        column_config={
            "Job": st.column_config.NumberColumn(format="#%d", width=60),
            "Name": st.column_config.TextColumn(width="medium"),
            "Progress": st.column_config.ProgressColumn(format="%d %%", max_value=100, width=130),
        }
        | {name: st.column_config.NumberColumn(format="%.1f") for name in table if name.endswith("%")},
        placeholder="",
    )
    for row, _column in event.selection.cells:
        if row < len(before):  # the row as it was when it was clicked
            common.go("job", id=before[row])


def rows(jobs: list[Job]) -> pd.DataFrame:
    """The table: a row per job, a column per frame count with its latest top-1 (%)."""
    store = common.store()
    ids = [job.id for job in jobs]
    accuracy, seconds = store.latest(ids, "top1"), store.latest(ids, "seconds")
    counts = sorted({count for values in accuracy.values() for count in values})
    table = []
    for job in jobs:
        left = common.seconds_left(job, seconds[job.id].get(0))
        row = {
            "Job": job.id,
            "State": f"{MARKS[job.state]} {job.state}",
            "Name": common.name(job),
            "Progress": int(100 * job.progress),
            "Epoch": f"{job.epoch} / {job.epochs}",
            "Left": common.duration(left) if left is not None else "",
        }
        row |= {f"{count}F %": accuracy[job.id].get(count) for count in counts}
        row |= {"Best %": job.best, "Model": job.model, "Data": job.data, "Method": job.method}
        row |= {"Created": common.when(job.created)[:16]}
        table.append(row)
    return pd.DataFrame(table)
