"""Errors that a visitor reads: one sentence, no traceback."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import gradio as gr


def sentences(handler: Callable) -> Callable:
    """Let ``handler`` tell the visitor what is wrong: a ValueError's sentence is shown, not its traceback."""

    @functools.wraps(handler)
    def answer(*arguments):
        try:
            return handler(*arguments)
        except ValueError as error:
            raise gr.Error(f"{error}.", print_exception=False) from error

    @functools.wraps(handler)
    def answers(*arguments):
        try:
            yield from handler(*arguments)
        except ValueError as error:
            raise gr.Error(f"{error}.", print_exception=False) from error

    return answers if inspect.isgeneratorfunction(handler) else answer
