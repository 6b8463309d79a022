"""What a run leaves for people: tables, metrics.csv, results.json and a plot."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from ffn.checkpoint import write_atomically


def markdown(accuracy: dict[str, dict[int, float]]) -> str:
    """A Markdown table of top-1 (%), a row per network and a column per frame count."""
    counts = list(next(iter(accuracy.values())))
    rows = [["network", *(f"{count}F" for count in counts)]]
    rows += [[name, *(f"{values[count]:.1f}" for count in counts)] for name, values in accuracy.items()]
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


def write_results(folder: Path, name: str, frames: tuple[int, ...], accuracy: dict[int, float], **more) -> None:
    """results.json and results.png: accuracy over frame counts."""
    results = {"network": name, "frames": frames, "accuracy": accuracy} | more
    write_atomically(folder / "results.json", lambda p: p.write_text(json.dumps(results, indent=2)))
    write_atomically(folder / "results.png", lambda p: plot_accuracy(p, {name: accuracy}))


def plot_accuracy(path: Path, accuracy: dict[str, dict[int, float]]) -> None:
    """A PNG of accuracy over frame counts, a line per network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=150)
    for name, values in accuracy.items():
        axes.plot(list(values), list(values.values()), marker="o", markersize=4, label=name)
    axes.set(
        xlabel="frames at test time", ylabel="top-1 accuracy (%)", xticks=list(next(iter(accuracy.values())))
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, format="png")
    plt.close(figure)
