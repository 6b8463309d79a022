"""What a run leaves for people: tables, metrics.csv, results.json and a plot."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from ffn.checkpoint import write_atomically
from ffn.measure import count_parameters, gflops


def markdown(accuracy: dict[str, dict[int, float]]) -> str:
    """A Markdown table of top-1 (%), a row per network and a column per frame count of the first one."""
    counts = list(next(iter(accuracy.values())))
    rows = [["network", *(f"{count}F" for count in counts)]]
    rows += [
        [name, *(f"{values[count]:.1f}" if count in values else "" for count in counts)]
        for name, values in accuracy.items()
    ]
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head, the first column is left-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "| "
        + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def write_metrics(path: Path, history: list[dict]) -> None:
    """metrics.csv: one row per epoch and frame count."""
    columns = list(dict.fromkeys(key for row in history for key in row))

    def write(partial: Path) -> None:
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(history)

    write_atomically(path, write)


def write_results(folder: Path, name: str, model, frames, outcome, history, paper=None) -> None:
    """results.json and results.png: accuracy over frame counts; confusion_T.csv for each training frequency.

    ``outcome`` is a :class:`trainers.evaluate.Outcome` of ``model``, ``history`` the rows of metrics.csv,
    ``paper`` the published top-1 at some frame counts, or None.
    """
    size = model.spec.preprocess.size
    results = {
        "network": name,
        "frames": frames,
        "accuracy": outcome.accuracy,
        "top5": {count: outcome.top(5, count) for count in outcome.probabilities},
        "gap": outcome.gap,
        "paper": paper,
        "clips": len(outcome.labels),
        "unreadable": outcome.failures,
        "parameters": count_parameters(model),
        "gflops": {count: gflops(model, count, size) for count in outcome.probabilities},
    }
    write_atomically(folder / "results.json", lambda p: p.write_text(json.dumps(results, indent=2)))
    curves = {name: outcome.accuracy} | ({"paper": paper} if paper else {})
    write_atomically(folder / "results.png", lambda p: plot_run(p, curves, history))
    for count in frames:
        rows = [["label \\ predicted", *model.spec.classes]]
        matrix = outcome.confusion(count).tolist()
        rows += [[label, *row] for label, row in zip(model.spec.classes, matrix, strict=True)]
        _write_csv(folder / f"confusion_{count}.csv", rows)


def _write_csv(path: Path, rows: list[list]) -> None:
    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)

    write_atomically(path, write)


def plot_run(path: Path, accuracy: dict[str, dict[int, float]], history: list[dict]) -> None:
    """A PNG of accuracy over frame counts beside the losses over epochs."""
    figure, (left, right) = _figure(2)
    _draw_accuracy(left, accuracy)
    for key in ("ce", "kl"):
        for count in sorted({row["frames"] for row in history}):
            points = [(r["epoch"], r[key]) for r in history if r["frames"] == count and r[key] != ""]
            if points:
                right.plot(*zip(*points, strict=True), label=f"{key} {count}F")
    right.set(xlabel="epoch", ylabel="training loss")
    _save(figure, path)


def plot_accuracy(path: Path, accuracy: dict[str, dict[int, float]]) -> None:
    """A PNG of accuracy over frame counts, a line per network."""
    figure, (axes,) = _figure(1)
    _draw_accuracy(axes, accuracy)
    _save(figure, path)


def _draw_accuracy(axes, accuracy: dict[str, dict[int, float]]) -> None:
    for name, values in accuracy.items():
        axes.plot(list(values), list(values.values()), marker="o", markersize=4, label=name)
    axes.set(
        xlabel="frames at test time", ylabel="top-1 accuracy (%)", xticks=list(next(iter(accuracy.values())))
    )


def _figure(columns: int):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(7 * columns, 4.2), dpi=150, squeeze=False)
    return figure, axes[0]


def _save(figure, path: Path) -> None:
    from matplotlib import pyplot as plt

    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, format="png")
    plt.close(figure)
