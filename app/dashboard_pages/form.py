"""A form for :class:`trainers.config.Config`, made from its dataclasses: a field a widget, its doc the help."""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import streamlit as st

from trainers.config import Config, choices

FIRST = ("model", "method", "frames", "data", "data_root", "epochs", "batch_size")
"""what most people set; the other fields stand in their groups"""
ELSEWHERE = {"out", "recipe", "resume"}
"""what the page asks for in its own way"""
WIDE = 3  # columns


def draw(base: Config, key: str) -> dict[str, Any]:
    """Draw the form, filled with ``base``; what was typed, by bare field names.

    ``key`` names this form: what was typed in it comes back with it.

    Raises:
        ValueError: if something typed is not of the field's type.
    """
    default, hints, docs = base.flat(), all_hints(), all_docs()
    typed = {}

    def widgets(names: Iterable[str]) -> None:
        for i, name in enumerate(names):
            if i % WIDE == 0:  # row by row: on a phone, where columns stand below each other, the order stays
                columns = st.columns(WIDE)
            with columns[i % WIDE]:
                typed[name] = _widget(name, default[name], docs.get(name, ""), f"{key}.{name}")

    widgets(FIRST)
    for title, names in groups():
        with st.expander(title):
            widgets(names)
    return {name: parse(name, hints[name], value) for name, value in typed.items()}


def groups() -> Iterator[tuple[str, list[str]]]:
    """Title and fields of each group, but for those drawn elsewhere."""
    left_out = ELSEWHERE.union(FIRST)
    for item in fields(Config):
        if is_dataclass(group := item.default_factory):
            names = [field.name for field in fields(group) if field.name not in left_out]
            yield f"{group.__name__}: {_first_words(group.__doc__)}", names
    own = [item.name for item in fields(Config) if not is_dataclass(item.default_factory)]
    yield "Other", [name for name in own if name not in left_out]


def all_hints() -> dict[str, Any]:
    """The type of every field by its bare name."""
    return {name: hint for group in _classes() for name, hint in get_type_hints(group).items()}


def all_docs() -> dict[str, str]:
    """The string that stands under every field, by its bare name."""
    return {name: doc for group in _classes() for name, doc in _docs_of(group)}


def parse(name: str, hint: Any, value: Any) -> Any:
    """What was typed into the widget of a field, as the field's type.

    Raises:
        ValueError: with one sentence, if it is not of that type.
    """
    if not isinstance(value, str):
        return value
    text, kind, optional = value.strip(), _kind(hint), NoneType in get_args(hint)
    if not text:
        if optional:
            return None
        if get_origin(kind) is tuple:
            return ()
        raise ValueError(f"{name} is empty: give a value")
    try:
        if get_origin(kind) is tuple:
            return tuple(int(part) for part in re.split(r"[\s,/]+", text))
        if kind in (int, float, Path):
            parsed = kind(text)
            if kind is float and not math.isfinite(parsed):
                raise ValueError
            return parsed
    except ValueError:
        what = {int: "a whole number", float: "a number"}.get(kind, "whole numbers such as 4 8 16")
        raise ValueError(f"{name} must be {what}, not {text!r}") from None
    return text


def shown(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _widget(name: str, default: Any, doc: str, key: str) -> Any:
    how = {"key": key, "help": doc, "persist_state": "session"}
    label = name.replace("_", " ").capitalize()
    options = choices().get(name)
    if options:
        return st.selectbox(label, options, options.index(default) if default in options else 0, **how)
    if isinstance(default, bool):
        return st.checkbox(label, default, **how)
    return st.text_input(label, shown(default), placeholder="default", **how)


def _classes() -> list[type]:
    return [Config, *(f.default_factory for f in fields(Config) if is_dataclass(f.default_factory))]


def _docs_of(group: type) -> Iterator[tuple[str, str]]:
    body = ast.parse(textwrap.dedent(inspect.getsource(group))).body[0].body
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
            yield field.target.id, " ".join(ast.literal_eval(after.value).split())


def _kind(hint: Any) -> Any:
    """X of ``X | None``."""
    if get_origin(hint) in (Union, UnionType):
        return next(part for part in get_args(hint) if part is not NoneType)
    return hint


def _first_words(doc: str) -> str:
    sentence = doc.partition(".")[0]
    return sentence[0].lower() + sentence[1:]
