"""Any jobs side by side: accuracy over frame counts and over GFLOPs, with the paper's numbers dashed."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.dashboard_pages import charts, common, folder
from trainers.jobs.tables import Job
from trainers.recipes import RECIPES


def show() -> None:
    st.title("Compare", anchor=False)
    jobs = {job.id: job for job in common.store().search(archived=None)}
    ids = st.query_params.get("ids", "")
    if ids and ids != st.session_state.get("compared_by_address"):
        st.session_state["compared_by_address"] = ids
        asked = [int(part) for part in ids.split(",") if part.isdigit()]
        st.session_state["compared"] = [job_id for job_id in asked if job_id in jobs]
    chosen = st.multiselect(
        "Jobs",
        list(jobs),
        key="compared",
        format_func=lambda job_id: f"#{job_id} {common.name(jobs[job_id])}",
        placeholder="Choose jobs",
        persist_state="session",
    )
    if chosen:
        _compare(chosen)
    else:
        st.info("Choose the jobs to set side by side.")


@common.live
def _compare(chosen: list[int]) -> None:
    jobs = [common.store().get(job_id) for job_id in chosen]
    latest, found = common.store().latest(chosen), {job.id: folder.results(job) for job in jobs}
    accuracy = {job.id: found[job.id].get("accuracy") or latest[job.id] for job in jobs}
    colours = {job.id: charts.COLOURS[i % len(charts.COLOURS)] for i, job in enumerate(jobs)}
    label = {job.id: f"#{job.id} {common.name(job)}" for job in jobs}
    by_label = {label[job_id]: colour for job_id, colour in colours.items()}

    over_frames = charts.lines(
        "Accuracy over frame counts",
        {label[job.id]: sorted(accuracy[job.id].items()) for job in jobs},
        "frames",
        "top-1 (%)",
        colours=by_label,
    )
    gflops = {job.id: found[job.id].get("gflops") or {} for job in jobs}
    over_gflops = charts.lines(
        "Accuracy over GFLOPs",
        {label[job.id]: _against(gflops[job.id], accuracy[job.id]) for job in jobs if gflops[job.id]},
        "GFLOPs per clip",
        "top-1 (%)",
        colours=by_label,
    )
    for recipe, job in {job.recipe: job for job in jobs if job.recipe in RECIPES}.items():
        paper = RECIPES[recipe].paper
        charts.add_paper(over_frames, f"paper: {recipe}", sorted(paper.items()), colours[job.id])
        if points := _against(gflops[job.id], paper):
            charts.add_paper(over_gflops, f"paper: {recipe}", points, colours[job.id])
    left, right = st.columns(2)
    with left:
        charts.show(over_frames, "over-frames", "Top-1 accuracy over frame counts")
    with right:
        charts.show(over_gflops, "over-gflops", "Top-1 accuracy over GFLOPs per clip")
        if not over_gflops.data:
            st.caption("GFLOPs are measured when a run is done.")
    rows = table(jobs, accuracy, found)
    numbers = {name: st.column_config.NumberColumn(format="%.1f") for name in rows if name.endswith("F")}
    numbers |= {"gap": st.column_config.NumberColumn(format="%.1f")}
    numbers |= {"parameters": st.column_config.NumberColumn(format="localized")}
    numbers |= {n: st.column_config.NumberColumn(format="%.2f") for n in rows if n.startswith("GFLOPs")}
    st.dataframe(rows, hide_index=True, placeholder="", column_config=numbers, key="compared-table")


def table(jobs: list[Job], accuracy: dict, found: dict) -> pd.DataFrame:
    """A row per job, and one per recipe of the paper's own numbers."""
    counts = sorted({count for values in accuracy.values() for count in values})
    rows = []
    for job in jobs:
        results, top1 = found[job.id], accuracy[job.id]
        row = {"run": f"#{job.id} {common.name(job)}", "state": job.state, "model": job.model}
        row |= {"method": job.method, "data": job.data}
        row |= {f"{count}F": top1.get(count) for count in counts}
        row |= {"gap": max(top1.values()) - min(top1.values()) if top1 else None}
        row |= {"parameters": results.get("parameters")}
        row |= {f"GFLOPs {n}F": (results.get("gflops") or {}).get(n) for n in _trained(results)}
        rows.append(row)
    for recipe in dict.fromkeys(job.recipe for job in jobs if job.recipe in RECIPES):
        paper = RECIPES[recipe].paper
        rows.append({"run": f"paper: {recipe}"} | {f"{count}F": paper.get(count) for count in counts})
    return pd.DataFrame(rows)


def _against(x: dict[int, float], y: dict[int, float]) -> list[tuple[float, float]]:
    return [(x[count], y[count]) for count in sorted(x.keys() & y.keys())]


def _trained(results: dict) -> list[int]:
    return [count for count in results.get("frames") or [] if isinstance(count, int)]
