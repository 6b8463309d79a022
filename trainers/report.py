"""What a run leaves for people: tables, metrics.csv, results.json and a plot."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path

from ffn.checkpoint import write_atomically
from ffn.measure import count_parameters, gflops
from trainers.outcome import Cascade, Outcome


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


@dataclass(frozen=True)
class Comparison:
    """Networks side by side, by name.

    ``costs`` holds a name's rows of frames, gflops, latency_ms and parameters; ``paper`` is the published top-1
    (%) by frame count, ``machine`` what latency was measured on, ``views`` how many clips of a video were
    averaged, ``classes`` the names of the classes if each is to be reported by itself.
    """

    outcomes: dict[str, Outcome]
    costs: dict[str, list[dict]]
    cascades: dict[str, Cascade]
    paper: dict[int, float] | None
    machine: str
    views: int = 1
    classes: tuple[str, ...] = ()

    @property
    def accuracy(self) -> dict[str, dict[int, float]]:
        """Top-1 (%) by name and frame count, the paper's last."""
        accuracy = {name: outcome.accuracy for name, outcome in self.outcomes.items()}
        return accuracy | ({"paper": self.paper} if self.paper else {})

    @property
    def failures(self) -> list[str]:
        """Of each clip that could not be read, once, which and why."""
        return list(dict.fromkeys(line for outcome in self.outcomes.values() for line in outcome.failures))

    def rows(self) -> list[dict]:
        """A row for each network and frame count, its cost included where it was measured."""
        rows = []
        for name, outcome in self.outcomes.items():
            costs = {row["frames"]: row for row in self.costs.get(name, [])}
            for count, top1 in outcome.accuracy.items():
                accuracy = {"frames": count, "top1": round(top1, 3), "top5": round(outcome.top(5, count), 3)}
                rows.append({"network": name} | accuracy | costs.get(count, {}))
        return rows

    def tables(self, costs: bool = True) -> list[str]:
        """Markdown: top-1 over frame counts; what it costs; cascades."""
        tables = ["Top-1 (%) over frames:\n\n" + markdown(self.accuracy)]
        if self.classes:
            tables += [f"{name}, by class:\n\n" + self._by_class(name) for name in self.outcomes]
        if costs:
            of = f" of {self.views} views of a clip" if self.views > 1 else " of a clip"
            tables.append(f"GFLOPs and latency{of} ({self.machine}):\n\n" + table(self._cost_rows()))
        if self.cascades:
            cascade = next(iter(self.cascades.values()))
            counts = " ".join(map(str, cascade.counts))
            title = f"Cascade {counts} until a probability of {cascade.confidence:g}:"
            head = ["network", "top-1 (%)", "frames, mean", "GFLOPs, mean"]
            cells = [
                [name, f"{c.top1:.1f}", f"{c.frames:.1f}", f"{c.gflops:.3g}"]
                for name, c in self.cascades.items()
            ]
            tables.append(f"{title}\n\n" + table([head, *cells]))
        return tables

    def _by_class(self, name: str) -> str:
        labels = self.outcomes[name].labels.bincount(minlength=len(self.classes)).tolist()
        head = ["class", "clips", *(f"{count}F" for count in self.outcomes[name].probabilities)]
        rows = [
            [label, str(clips), *("" if share is None else f"{share:.1f}" for share in shares.values())]
            for (label, shares), clips in zip(self._shares(name).items(), labels, strict=True)
        ]
        return table([head, *rows])

    def _cost_rows(self) -> list[list[str]]:
        head = ["network", "frames", "top-1 (%)", "top-5 (%)", "GFLOPs", "latency (ms)", "parameters (M)"]
        return [head] + [
            [
                row["network"],
                str(row["frames"]),
                f"{row['top1']:.1f}",
                f"{row['top5']:.1f}",
                f"{row['gflops']:.3g}",
                f"{row['latency_ms']:.1f}",
                f"{row['parameters'] / 1e6:.2f}",
            ]
            for row in self.rows()
            if "gflops" in row
        ]

    def as_dict(self) -> dict:
        """All of it, for JSON."""
        first = next(iter(self.outcomes.values()))
        return {
            "rows": self.rows(),
            "gap": {name: outcome.gap for name, outcome in self.outcomes.items()},
            "cascade": {name: asdict(cascade) for name, cascade in self.cascades.items()},
            "paper": self.paper,
            "clips": len(first.labels),
            "unreadable": self.failures,
            "views": self.views,
            "machine": self.machine,
        } | ({"by_class": {name: self._shares(name) for name in self.outcomes}} if self.classes else {})

    def _shares(self, name: str) -> dict[str, dict[int, float | None]]:
        """Top-1 (%) of each class at each frame count; None for a class without clips."""
        outcome = self.outcomes[name]
        shares = {count: outcome.by_class(count) for count in outcome.probabilities}
        return {
            label: {count: None if isnan(share[i]) else round(share[i], 3) for count, share in shares.items()}
            for i, label in enumerate(self.classes)
        }


def write_rows(path: Path, rows: list[dict]) -> None:
    """A CSV file with a column for every key that any row has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def write_results(folder: Path, name: str, model, frames, outcome: Outcome, history, paper=None) -> None:
    """results.json and results.png: accuracy over frame counts; confusion_T.csv for each training frequency.

    ``outcome`` is what ``model`` predicted, ``history`` the rows of metrics.csv, ``paper`` the published
    top-1 at some frame counts, or None.
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
