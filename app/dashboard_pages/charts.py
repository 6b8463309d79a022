"""The figures, as Plotly draws them. Names come from people: Plotly would read HTML in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import plotly.graph_objects as go
import streamlit as st

COLOURS = ("#2563eb", "#f97316", "#10b981", "#a855f7", "#eab308", "#06b6d4", "#ec4899", "#84cc16")
PAPER = "#8b93a3"
HEIGHT = 300

Points = Sequence[tuple[float, float]]


def lines(
    title: str, curves: Mapping[str, Points], x: str, y: str, *, colours: Mapping[str, str] | None = None
) -> go.Figure:
    """A line per curve; long ones without markers."""
    figure = _figure(title, x, y)
    figure.update_layout(showlegend=len(curves) > 1)
    for i, (label, points) in enumerate(curves.items()):
        colour = (colours or {}).get(label, COLOURS[i % len(COLOURS)])
        mode = "lines+markers" if len(points) <= 40 else "lines"
        figure.add_scatter(
            x=[p[0] for p in points],
            y=[p[1] for p in points],
            name=escape(label),
            mode=mode,
            line={"color": colour, "width": 2},
            marker={"size": 5},
        )
    return figure


def add_paper(figure: go.Figure, label: str, points: Points, colour: str = PAPER) -> None:
    """Published numbers: dashed."""
    figure.update_layout(showlegend=True)
    figure.add_scatter(
        x=[p[0] for p in points],
        y=[p[1] for p in points],
        name=escape(label),
        mode="lines+markers",
        line={"color": colour, "width": 1.5, "dash": "dash"},
        marker={"size": 6, "symbol": "circle-open"},
    )


def confusion(names: Sequence[str], counts: Sequence[Sequence[int]]) -> go.Figure:
    """Rows: what it is; columns: what the network said; in percent of the row, counts on hovering."""
    shares = [[100 * cell / (sum(row) or 1) for cell in row] for row in counts]
    labels = [escape(name) for name in names]
    figure = _figure("", "predicted", "label")
    figure.add_heatmap(
        x=labels,
        y=labels,
        z=shares,
        customdata=counts,
        colorscale="Blues",
        zmin=0,
        zmax=100,
        showscale=False,
        hovertemplate="label %{y}<br>predicted %{x}<br>%{customdata} clips, %{z:.0f} %<extra></extra>",
    )
    # Short ticks leave a phone room for the matrix; hovering tells the whole names.
    short = [f"{escape(name if len(name) <= 20 else name[:19] + '…')} {i}" for i, name in enumerate(names, 1)]
    figure.update_yaxes(autorange="reversed", automargin=True, tickvals=labels, ticktext=short)
    some = slice(None, None, -(-len(names) // 8))
    figure.update_xaxes(tickvals=labels[some], ticktext=list(range(1, len(names) + 1))[some], tickangle=0)
    figure.update_layout(height=max(420, 26 * len(names) + 200))
    return figure


def frequency_colours(counts: Iterable[int]) -> dict[str, str]:
    """Each frame count has its colour in every figure of a page."""
    return {f"{n} frames": COLOURS[i % len(COLOURS)] for i, n in enumerate(sorted(counts))}


def show(figure: go.Figure, key: str, alt: str) -> None:
    """On the page; what is zoomed and hidden stays so until the figure changes."""
    st.plotly_chart(figure, key=key, config={"displaylogo": False}, alt=alt)


def _figure(title: str, x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 15}} if title else None,
        height=HEIGHT,
        margin={"l": 10, "r": 10, "t": 44 if title else 12, "b": 10},
        legend={"orientation": "h", "y": -0.25, "x": 0},
        hovermode="x unified",
    )
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure
