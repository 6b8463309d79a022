"""What the runs of the experiment say: the paper's tables 1, 2, 4, 6 and 8 and its figures, in our numbers."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from ffn.checkpoint import write_atomically
from ffn.flexible import nearest
from trainers import report
from trainers.experiment import DEPTH, NETWORKS, Run

Accuracy = dict[int, float]  # top-1 (%) by frame count

METHODS = {  # label: what the tables call it
    "base": "trained at H",
    "mixed50": "mixed sampling .50",
    "mixed75": "mixed sampling .75",
    "proportional50": "proportional sampling .50",
    "proportional75": "proportional sampling .75",
    "finetune": "fine-tuned H to L",
    "ensemble": "ensemble of 3 networks",
    "separate": "separate training (3 networks)",
    "ffn": "FFN",
}
MAIN = ("base", "separate", "ffn")
ABLATIONS = {
    "ffn_shared_norms": "without private norms",
    "ffn_unaltered": "without weight alteration",
    "ffn_undistilled": "without distillation",
    "ffn_paper": "labels at H alone (the paper's loss)",
    "ffn_unshared": "without weight sharing",
    "ffn": "FFN",
}
FREQUENCIES = {"ffn2": "FFN at 2 frequencies", "ffn": "FFN at 3 frequencies", "ffn4": "FFN at 4 frequencies"}


@dataclass(frozen=True)
class Results:
    """results.json of each run that is done, by (model, label, seed), in the order of the plan."""

    runs: dict[tuple[str, str, int], dict]

    @classmethod
    def read(cls, out: Path, plan: list[Run]) -> Results:
        found = {}
        for run in plan:
            path = out / run.name / "results.json"
            if path.exists():
                found[run.model, run.label, run.seed] = json.loads(path.read_text())
        return cls(found)

    def of_first_seed(self) -> Results:
        """The runs of the seed that the tables of one network are made of."""
        first = next(seed for _, _, seed in self.runs)
        return Results({key: result for key, result in self.runs.items() if key[2] == first})

    def comparable(self, model: str) -> Results:
        """The runs of the seeds that have all of the main table, as how good networks are differs more between
        seeds than between its rows; while no seed has, the runs of the first."""
        labels = ("ffn", *_separate_labels(model).values())
        seeds = {seed for _, _, seed in self.runs}
        whole = {seed for seed in seeds if all((model, label, seed) in self.runs for label in labels)}
        if not whole:
            return self.of_first_seed()
        return Results({key: result for key, result in self.runs.items() if key[2] in whole})

    def seeds(self, model: str, label: str) -> list[Accuracy]:
        """A curve per seed; ``separate`` takes at each count the plain network trained nearest to it."""
        if label == "separate":
            return self._separate(model)
        return [_curve(result) for (m, name, _), result in self.runs.items() if (m, name) == (model, label)]

    def _separate(self, model: str) -> list[Accuracy]:
        *_, high = NETWORKS[model]
        labels, curves = _separate_labels(model), []
        for seed in sorted({seed for m, _, seed in self.runs if m == model}):
            members = {n: self.runs.get((model, label, seed)) for n, label in labels.items()}
            if all(members.values()):
                own = {n: _curve(result) for n, result in members.items()}
                curve = {count: own[nearest(own, count)].get(count) for count in own[high]}
                curves.append({count: top1 for count, top1 in curve.items() if top1 is not None})
        return curves

    def gflops(self, model: str) -> dict[int, float]:
        """By frame count, of one clip through a network of this kind, whatever it was trained for."""
        found = [r["gflops"] for (m, _, _), r in self.runs.items() if m == model]
        return {int(count): value for each in reversed(found) for count, value in each.items()}

    def first(self, model: str, label: str) -> dict | None:
        """results.json of the first seed that is done."""
        return next((r for (m, name, _), r in self.runs.items() if (m, name) == (model, label)), None)


def _separate_labels(model: str) -> dict[int, str]:
    """The plain networks that separate training consists of, by the frame count of each."""
    *lower, high = NETWORKS[model]
    return {count: f"st{count}" for count in lower} | {high: "base"}


def _curve(result: dict) -> Accuracy:
    return {int(count): top1 for count, top1 in result["accuracy"].items()}


def write(out: Path, results: Results, about: dict) -> None:
    """results.md, results.csv, the figures as PNG, and all of it as an interactive page, figures.html."""
    if not results.runs:
        return
    text = "\n\n".join(["# The paper's experiment on Motion", _about(about), *tables(results)])
    write_atomically(out / "results.md", lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
    report.write_rows(out / "results.csv", rows(results))
    curves = any_frame(results, DEPTH)
    if curves:
        write_atomically(out / "any_frame.png", lambda partial: report.plot_accuracy(partial, curves))
    write_atomically(out / "figures.html", lambda partial: partial.write_text(page(results), encoding="utf-8"))


def _about(about: dict) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in about.items())


def rows(results: Results) -> list[dict]:
    """A row for each run and frame count."""
    return [
        {"network": model, "method": label, "seed": seed, "frames": int(count), "top1": top1, "top5": top5}
        | {"gflops": result["gflops"][count], "parameters": result["parameters"]}
        for (model, label, seed), result in results.runs.items()
        for (count, top1), top5 in zip(result["accuracy"].items(), result["top5"].values(), strict=True)
    ]


def tables(results: Results) -> list[str]:
    """The paper's tables as Markdown, each with its title; rows of runs that are not done are left out.

    Tables 2 and 6 are means over seeds. The others hold runs that there is one seed of, so they stay within it.
    """
    main_rows = {label: METHODS[label] for label in MAIN}
    one = results.of_first_seed()
    made = [
        _table("Table 1: ways to train, " + DEPTH, METHODS, one, DEPTH, NETWORKS[DEPTH]),
        *(
            _table(f"Table 2: {model}", main_rows, results.comparable(model), model, counts)
            for model, counts in NETWORKS.items()
        ),
        _table("Table 4: without each part, " + DEPTH, ABLATIONS, one, DEPTH, NETWORKS[DEPTH]),
        _any_frame_table(results),
        _table("Table 8: training frequencies, " + DEPTH, FREQUENCIES, one, DEPTH, (4, 8, 12, 16)),
    ]
    return [table for table in made if table]


def _table(title: str, labels: dict[str, str], results: Results, model: str, counts: tuple[int, ...]) -> str:
    head = ["", "parameters", *(f"{count}F" for count in counts)]
    cells = []
    for label, name in labels.items():
        curves = results.seeds(model, label)
        if curves:
            accuracy = [_mean_and_spread([curve[count] for curve in curves]) for count in counts]
            cells.append([name, _parameters(results, model, label), *accuracy])
    return f"## {title}\n\n{report.table([head, *cells])}" if cells else ""


def _parameters(results: Results, model: str, label: str) -> str:
    times, label = ("3 x ", "base") if label == "separate" else ("", label)
    result = results.first(model, label)
    return f"{times}{result['parameters'] / 1e6:.3f}M" if result else ""


def _mean_and_spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def any_frame(results: Results, model: str) -> dict[str, Accuracy]:
    """Mean top-1 over seeds at every frame count: the base, separate training, FFN."""
    curves, results = {}, results.comparable(model)
    for label in MAIN:
        own = results.seeds(model, label)
        if own:
            curves[METHODS[label]] = {n: statistics.mean(curve[n] for curve in own) for n in own[0]}
    return curves


def _any_frame_table(results: Results) -> str:
    made = []
    for model in NETWORKS:
        curves = any_frame(results, model)
        if curves:
            made.append(f"### {model}\n\n{report.markdown(curves)}")
    return "## Table 6: any frame count\n\n" + "\n\n".join(made) if made else ""


def page(results: Results) -> str:
    """An HTML page of interactive figures: deviation and any-frame curves, accuracy against GFLOPs."""
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    models = [model for model in NETWORKS if any_frame(results, model)]
    titles = [f"{model}: {what}" for model in models for what in ("over frames", "over GFLOPs")]
    figure = make_subplots(max(1, len(models)), 2, subplot_titles=titles)
    for row, model in enumerate(models, 1):
        work = results.gflops(model)
        for number, (name, curve) in enumerate(any_frame(results, model).items()):
            style = {"name": name, "legendgroup": name, "mode": "lines+markers"}
            style["line"] = {"color": ("#b45309", "#64748b", "#2563eb")[number]}
            y, x = list(curve.values()), list(curve)
            figure.add_trace(go.Scatter(x=x, y=y, showlegend=row == 1, **style), row, 1)
            figure.add_trace(go.Scatter(x=[work[n] for n in x], y=y, showlegend=False, **style), row, 2)
        figure.update_xaxes(title="frames at test time", row=row, col=1)
        figure.update_xaxes(title="GFLOPs", type="log", row=row, col=2)
        figure.update_yaxes(title="top-1 (%)", row=row)
    figure.update_layout(height=420 * max(1, len(models)), template="plotly_white")
    return figure.to_html(include_plotlyjs="cdn", full_html=True)
