"""Accuracy and cost of checkpoints over frame counts: ``python -m trainers.evaluate CKPT ...``"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn
from tqdm import tqdm

import ffn
from ffn.adaptive import check_cascade
from ffn.checkpoint import read_metadata, write_atomically
from ffn.device import choose_device
from ffn.flexible import nearest
from ffn.measure import count_parameters, describe, gflops, latency
from ffn.released import load_any
from trainers import distributed, report
from trainers.data import create_source
from trainers.data.clips import Clips, default_workers, test_batches
from trainers.distributed import gather, is_main, rank, world
from trainers.outcome import Outcome, together
from trainers.recipes import RECIPES

COUNTS = (2, 4, 6, 8, 10, 12, 14, 16, 20, 24)


def sweep(frames: tuple[int, ...]) -> tuple[int, ...]:
    """The frame counts that a network trained at ``frames`` is measured at: COUNTS, or multiples of them."""
    return tuple(count * max(1, round(max(frames) / 16)) for count in COUNTS)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    source,
    counts=COUNTS,
    batch_size=32,
    workers=1,
    bar: str | None = "evaluating",
    views=1,
    crops=1,
) -> Outcome:
    """Run ``model`` (which carries a spec) over every clip of ``source`` at each frame count.

    The probabilities are the means over ``views`` (clips spread over the video's time) times ``crops`` (1: the
    centre; 3: spread over the longer side). Processes of a distributed run share the clips, each of which
    counts once, and all get the outcome.
    """
    model.eval()
    device = next(model.parameters()).device
    preprocess = model.spec.preprocess
    probabilities = {count: [torch.empty(0, model.spec.num_classes)] for count in counts}
    labels, indices = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    failures = []
    clips = Clips(source, counts, preprocess, views=views, crops=crops)
    batches = test_batches(clips, batch_size, workers, rank(), world())
    for batch in tqdm(batches, bar, unit="batch", leave=False, disable=bar is None or not is_main()):
        labels.append(batch.labels)
        indices.append(batch.indices)
        failures += batch.failures
        for count, clip in batch.clips.items():
            clip = clip.to(device, non_blocking=True)
            probabilities[count].append(_predict(model, clip, len(batch.labels)).cpu())
    own = torch.cat(indices), torch.cat(labels), {n: torch.cat(p) for n, p in probabilities.items()}, failures
    return _joined(gather(own))


def _predict(model: nn.Module, clips: Tensor, videos: int) -> Tensor:
    """uint8 (videos * views, T, H, W, 3), a video's views in a row -> probabilities (videos, num_classes)."""
    logits = model(model.spec.preprocess.normalise(clips))
    return logits.float().softmax(1).unflatten(0, (videos, -1)).mean(1)


def _joined(shards: list[tuple[Tensor, Tensor, dict[int, Tensor], list[str]]]) -> Outcome:
    """The outcome of all processes' (indices, labels, probabilities, failures), in the source's order."""
    indices, labels, probabilities, failures = zip(*shards, strict=True)
    failures = [failure for shard in failures for failure in shard]
    order = torch.cat(indices).argsort()
    if not len(order):
        raise ValueError(f"none of the clips could be read: {failures[0] if failures else 'there are none'}")
    joined = {count: torch.cat([shard[count] for shard in probabilities])[order] for count in probabilities[0]}
    return Outcome(joined, torch.cat(labels)[order], failures)


@dataclass(frozen=True)
class Settings:
    """Print the accuracy and cost of checkpoints over frame counts, side by side, as Markdown tables."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """safetensors files that trainers.run or ffn.save wrote, or released checkpoints"""
    data: str = "motion"
    """data set whose validation split is used, as for trainers.run"""
    data_root: Path | None = None
    """folder of the data set (Motion needs none)"""
    fold: int = 1
    """which of the data set's official splits (HMDB51 has 1, 2 and 3)"""
    clips: int | None = None
    """clips to use; default: all"""
    seed: int | None = None
    """of a folder's split into training and validation clips; default: that of the checkpoint's run"""
    max_bad: float = 0.05
    """largest share of clips that may be unreadable, as found by trainers.check"""
    frames: tuple[int, ...] = COUNTS
    """frame counts"""
    views: int = 1
    """clips spread over each video's time, whose probabilities are averaged"""
    crops: Literal[1, 3] = 1
    """1: the centre; 3: spread over the longer side, probabilities averaged"""
    ensemble: bool = False
    """add a row for the mean of the plain checkpoints' predictions (those trained at one frame count)"""
    separate: bool = False
    """add a row that takes, at each frame count, the plain checkpoint trained nearest to it"""
    cascade: tuple[int, ...] = ()
    """add a table for trying these frame counts, fewest first, until the network is sure"""
    confidence: float = 0.8
    """probability from which on the network is sure"""
    paper: str | None = None
    """add a row with the published result of this recipe (see trainers.run --list-recipes)"""
    by_class: bool = False
    """report each class's top-1 as well"""
    costs: bool = True
    """print the table of top-5, GFLOPs, latency and parameters"""
    plot: Path | None = None
    """PNG to draw the accuracy to"""
    csv: Path | None = None
    """CSV file to write the figures to, a row per network and frame count"""
    json: Path | None = None
    """JSON file to write everything to"""
    batch_size: int = 32
    """clips per step"""
    device: str = "auto"
    """auto, cpu, cuda ..."""
    workers: int | None = None
    """processes that load clips; default: by the number of cores"""
    cache: Path | None = None
    """folder that keeps rendered clips, as for trainers.run"""

    def check(self) -> None:
        """Raises ValueError, with one sentence, for a setting that cannot be."""
        if not self.checkpoints:
            raise ValueError("name at least one checkpoint")
        if min((*self.frames, self.views, self.batch_size), default=0) < 1 or not self.frames:
            raise ValueError("frames, views and batch_size must be at least 1")
        if self.cascade:
            check_cascade(self.cascade, self.confidence)
        if self.paper and self.paper not in RECIPES:
            raise ValueError(f"there is no recipe {self.paper!r}; trainers.run --list-recipes names them all")

    @property
    def counts(self) -> tuple[int, ...]:
        """Every frame count that is evaluated, ascending."""
        return tuple(sorted({*self.frames, *self.cascade}))


def name_of(path: Path) -> str:
    """What a checkpoint's row is called: its run's folder, or the file's own name."""
    return path.parent.name if path.stem == "best" else path.stem


def check_classes(model: nn.Module, name: str, classes: Iterable[str]) -> None:
    """Raises ValueError if ``model`` was trained for other classes than a data set has."""
    known, classes = model.spec.classes, tuple(classes)
    if model.spec.num_classes != len(classes):
        raise ValueError(
            f"{name} tells {model.spec.num_classes} classes apart and the data set has {len(classes)}: "
            "name the data set that it was trained on"
        )
    if known and known != classes:
        theirs, ours = next(pair for pair in zip(known, classes, strict=True) if pair[0] != pair[1])
        raise ValueError(
            f"{name} was trained for other classes than the data set has, or in another order: "
            f"{theirs!r} stands where the data set has {ours!r}"
        )


def measure_costs(model: nn.Module, counts: Iterable[int], views: int, device: torch.device) -> list[dict]:
    """For each frame count: GFLOPs and latency (ms, deployed, median) of a video's ``views``; parameters."""
    predictor = ffn.Predictor(model, device)
    size = model.spec.preprocess.size
    rows = []
    for count in tqdm(tuple(counts), "latency", unit="count", leave=False):
        clip = torch.rand(views, 3, count, size, size, device=device)
        median = latency(predictor.network(count), clip, repeats=5, warm_up=1).median
        work = gflops(model, count, size) * views
        rows.append(
            {"frames": count, "gflops": work, "latency_ms": median, "parameters": count_parameters(model)}
        )
    return rows


def compare(settings: Settings) -> report.Comparison:
    """Evaluate every checkpoint. Only the main process's comparison has costs.

    Raises:
        ValueError: with one sentence, for a checkpoint, data set or setting that does not do.
    """
    settings.check()
    where = choose_device(distributed.start(settings.device))
    workers = default_workers(where) if settings.workers is None else settings.workers
    views = settings.views * settings.crops
    outcomes, plain, costs, cascades, held_out = {}, {}, {}, {}, set()
    for path in settings.checkpoints:
        name = name_of(path)
        if name in outcomes:
            raise ValueError(f"two checkpoints are called {name}: rename one, so that their rows differ")
        model = load_any(path).to(where)
        source = _source(settings, model.spec.preprocess.size, _seed(settings, path))
        check_classes(model, name, source.classes)
        outcome = evaluate(
            model, source, settings.counts, settings.batch_size, workers, name, settings.views, settings.crops
        )
        outcomes[name] = outcome
        if not model.spec.flexible and len(model.spec.frames) == 1:
            plain[name] = model.spec.frames[0], outcome
            held_out.add(tuple(source.name(i) for i in range(len(source))))
        if is_main() and (settings.costs or settings.cascade):
            costs[name] = measure_costs(model, settings.counts, views, where)
        if is_main() and settings.cascade:
            work = {row["frames"]: row["gflops"] for row in costs[name]}
            cascades[name] = outcome.cascade(settings.cascade, settings.confidence, work)
        distributed.wait()
    if (settings.ensemble or settings.separate) and len(held_out) > 1:
        raise ValueError("--ensemble and --separate need checkpoints of one split: their seeds differ")
    if settings.ensemble:
        everything = {name: outcome for name, (_, outcome) in plain.items()}
        outcomes["ensemble"] = together(everything, lambda _: list(everything))
    if settings.separate:
        outcomes["separate training"] = _separate(plain)
    paper = RECIPES[settings.paper].paper if settings.paper else None
    classes = source.classes if settings.by_class else ()
    return report.Comparison(outcomes, costs, cascades, paper, describe(where), views, classes)


def _separate(plain: dict[str, tuple[int, Outcome]]) -> Outcome:
    """At each frame count, what the checkpoint trained nearest to it says; raises ValueError if two are."""
    by_count = {}
    for name, (count, outcome) in plain.items():
        if count in by_count:
            raise ValueError(f"--separate takes one checkpoint a frame count; {name} is a second at {count}")
        by_count[count] = outcome
    return together(by_count, lambda count: [nearest(by_count, count)])


def _seed(settings: Settings, path: Path) -> int:
    """Another seed than the run's would test on clips that it was trained on."""
    if settings.seed is not None or path.suffix != ".safetensors":
        return settings.seed or 0
    return int(read_metadata(path).get("seed", 0))


def _source(settings: Settings, size: int, seed: int):
    return create_source(
        settings.data,
        "val",
        root=settings.data_root,
        size=size,
        clips=settings.clips,
        cache=settings.cache,
        seed=seed,
        fold=settings.fold,
        max_bad=settings.max_bad,
    )


def show(settings: Settings, comparison: report.Comparison) -> None:
    """Print the tables, name unreadable clips on stderr, write the files asked for."""
    print("\n\n".join(comparison.tables(settings.costs)))
    failures = comparison.failures
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    if failures:
        clips = f"{len(failures)} clip{'s'[: len(failures) > 1]}"
        print(f"{clips} could not be read and took no part", file=sys.stderr)
    if settings.plot:
        write_atomically(settings.plot, lambda partial: report.plot_accuracy(partial, comparison.accuracy))
    if settings.csv:
        report.write_rows(settings.csv, comparison.rows())
    if settings.json:
        text = json.dumps(comparison.as_dict(), indent=2)
        write_atomically(settings.json, lambda partial: partial.write_text(text))


def main(arguments: list[str]) -> int:
    settings = tyro.cli(Settings, args=arguments, prog="python -m trainers.evaluate")
    try:
        comparison = compare(settings)
        if is_main():
            show(settings, comparison)
    except (ValueError, OSError) as error:
        print(f"trainers.evaluate: {error}", file=sys.stderr)
        return 2
    finally:
        distributed.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
