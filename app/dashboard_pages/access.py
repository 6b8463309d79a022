"""Who may see and change what.

``FFN_READONLY=1`` and a public Space without a password switch every change off; with ``FFN_PASSWORD`` nothing
is shown before a log-in, which lasts as long as the page is open.
"""

from __future__ import annotations

import hmac
import os
import time
from hashlib import sha256

import streamlit as st

OFF = ("", "0", "false", "no", "off")


def readonly() -> str:
    """One sentence that says why nothing can be changed here; empty if it can."""
    if os.environ.get("FFN_READONLY", "").lower() not in OFF:
        return "This dashboard only shows: FFN_READONLY is set."
    if os.environ.get("SPACE_ID") and not os.environ.get("FFN_PASSWORD"):
        return "This public Space only shows: launching and stopping need an FFN_PASSWORD in its secrets."
    return ""


def check_change() -> None:
    """Raises PermissionError, with one sentence, if this visitor may not change anything."""
    if readonly():
        raise PermissionError(readonly())
    if not _logged_in():
        raise PermissionError("Log in first.")


def log_in() -> None:
    """Ask for ``FFN_PASSWORD``; without the right answer the page ends here."""
    if _logged_in():
        return
    st.title("Frame Flexible Network", anchor=False)
    with st.form("log-in", width=420):
        given = st.text_input("Password", type="password", autocomplete="current-password")
        sent = st.form_submit_button("Log in", type="primary")
    if sent and _same(given or "", os.environ["FFN_PASSWORD"]):
        st.session_state["logged_in"] = True
        st.rerun()
    if sent:
        time.sleep(1)  # guessing takes its time
        st.error("This is not the password.")
    st.stop()


def _logged_in() -> bool:
    return not os.environ.get("FFN_PASSWORD") or st.session_state.get("logged_in", False)


def _same(given: str, password: str) -> bool:
    """In a time that tells neither the length nor the beginning of the password."""
    digests = (sha256(text.encode()).digest() for text in (given, password))
    return hmac.compare_digest(*digests)
