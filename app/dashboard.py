"""The dashboard: launch training jobs, watch them, compare them, stop and resume them.

    python -m app.dashboard      or      streamlit run app/dashboard.py

The jobs live in the job store (:mod:`trainers.jobs`) and run in the worker (``python -m trainers.worker``), so
that this process and the pages it serves may come and go.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Streamlit runs this file by its path: Python then looks for modules beside it, not in the repository's root.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import streamlit as st
from streamlit import runtime

PAGES = {"jobs": ("Jobs", ":material/list:"), "launch": ("Launch", ":material/rocket_launch:")}
PAGES |= {"compare": ("Compare", ":material/compare_arrows:"), "job": ("Job", ":material/monitoring:")}
CSS = """
.stMainBlockContainer { padding-top: 4.5rem; padding-bottom: 3rem; }
@media (max-width: 640px) { .stMainBlockContainer { padding-left: 1rem; padding-right: 1rem; } }
"""


def show() -> None:
    """One run of the script: the page that the address names, for those who may see it."""
    from app.dashboard_pages import access, common, compare, job, jobs, launch

    st.set_page_config("Training · FFN", ":material/monitoring:", layout="wide")
    bodies = {"jobs": jobs.show, "launch": launch.show, "compare": compare.show, "job": job.show}
    pages = {
        name: st.Page(
            common.guarded(bodies[name]),
            title=title,
            icon=icon,
            url_path=name,
            default=name == "jobs",
            visibility="hidden" if name == "job" else "visible",
        )
        for name, (title, icon) in PAGES.items()
    }
    page = st.navigation(list(pages.values()), position="top")
    access.log_in()
    common.follow(pages)
    st.html(f"<style>{CSS}</style>")
    page.run()


def main(
    host: str = os.environ.get("STREAMLIT_SERVER_ADDRESS") or "127.0.0.1",
    port: int | None = None,
) -> None:
    """Serve the dashboard until interrupted.

    Args:
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on; default: PORT, else 8501.
    """
    port = port or int(os.environ.get("PORT") or 8501)
    options = ["--server.address", host, "--server.port", str(port)]
    command = [sys.executable, "-m", "streamlit", "run", str(Path(__file__).resolve()), *options]
    os.execv(sys.executable, command)


if runtime.exists():
    show()
elif __name__ == "__main__":
    import tyro

    tyro.cli(main, prog="python -m app.dashboard")
