"""Accuracy of one or several checkpoints over frame counts: ``python -m trainers.evaluate CKPT ...``"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

import ffn
from ffn.checkpoint import write_atomically
from ffn.device import choose_device
from ffn.flexible import nearest
from trainers import report
from trainers.data import create_source
from trainers.data.clips import Clips, default_workers, test_batches
from trainers.distributed import gather, is_main, rank, world

COUNTS = (2, 4, 6, 8, 10, 12, 14, 16, 20, 24)


def sweep(frames: tuple[int, ...]) -> tuple[int, ...]:
    """The frame counts that a network trained at ``frames`` is measured at: COUNTS, or multiples of them."""
    return tuple(count * max(1, round(max(frames) / 16)) for count in COUNTS)


@dataclass(frozen=True)
class Outcome:
    """A network's class probabilities ``(N, num_classes)`` for N clips at each frame count, and the labels.

    ``failures`` names the clips that could not be read and are not among them.
    """

    probabilities: dict[int, Tensor]
    labels: Tensor
    failures: list[str] = field(default_factory=list)

    def top(self, k: int, count: int) -> float:
        """Share of the clips, in percent, whose label is among the k likeliest classes."""
        probabilities = self.probabilities[count]
        best = probabilities.topk(min(k, probabilities.shape[1])).indices
        return 100 * (best == self.labels[:, None]).any(1).float().mean().item()

    @property
    def accuracy(self) -> dict[int, float]:
        """Top-1 in percent at each frame count."""
        return {count: self.top(1, count) for count in self.probabilities}

    @property
    def gap(self) -> float:
        """The deviation gap: percent points between the best and the worst frame count."""
        return max(self.accuracy.values()) - min(self.accuracy.values())

    def confusion(self, count: int) -> Tensor:
        """How often (row: label, column: predicted class), as ``(num_classes, num_classes)`` numbers."""
        probabilities = self.probabilities[count]
        classes = probabilities.shape[1]
        cells = self.labels * classes + probabilities.argmax(1)
        return torch.bincount(cells, minlength=classes**2).view(classes, classes)


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module, source, counts=COUNTS, batch_size=32, workers=1, bar: str | None = "evaluating"
) -> Outcome:
    """Run ``model`` (which carries a spec) over every clip of ``source`` at each frame count.

    Processes of a distributed run share the clips, each of which counts once, and all get the outcome.
    """
    model.eval()
    device = next(model.parameters()).device
    preprocess = model.spec.preprocess
    probabilities = {count: [torch.empty(0, model.spec.num_classes)] for count in counts}
    labels, indices = [torch.empty(0, dtype=torch.int64)], [torch.empty(0, dtype=torch.int64)]
    failures = []
    batches = test_batches(Clips(source, counts, preprocess), batch_size, workers, rank(), world())
    for batch in tqdm(batches, bar, unit="batch", leave=False, disable=bar is None or not is_main()):
        labels.append(batch.labels)
        indices.append(batch.indices)
        failures += batch.failures
        for count, clip in batch.clips.items():
            logits = model(preprocess.normalise(clip.to(device, non_blocking=True)))
            probabilities[count].append(logits.float().softmax(1).cpu())
    own = torch.cat(indices), torch.cat(labels), {n: torch.cat(p) for n, p in probabilities.items()}, failures
    return _joined(gather(own))


def _joined(shards: list[tuple[Tensor, Tensor, dict[int, Tensor], list[str]]]) -> Outcome:
    """The outcome of all processes' (indices, labels, probabilities, failures), in the source's order."""
    indices, labels, probabilities, failures = zip(*shards, strict=True)
    order = torch.cat(indices).argsort()
    if not len(order):
        raise ValueError(f"none of the clips could be read: {failures[0][0]}")
    counts = probabilities[0]
    return Outcome(
        {count: torch.cat([shard[count] for shard in probabilities])[order] for count in counts},
        torch.cat(labels)[order],
        [failure for shard in failures for failure in shard],
    )


def main(
    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional],
    data: str = "motion",
    frames: tuple[int, ...] = COUNTS,
    ensemble: bool = False,
    separate: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    workers: int | None = None,
    cache: Path | None = None,
    plot: Path | None = None,
) -> None:
    """Print the top-1 accuracy of checkpoints over frame counts, side by side, as a Markdown table.

    Args:
        checkpoints: safetensors files that trainers.run or ffn.save wrote.
        data: data set whose validation split is used.
        frames: frame counts.
        ensemble: add a row for the mean of the plain checkpoints' predictions.
        separate: add a row that takes, at each frame count, the plain checkpoint trained nearest to it.
        batch_size: clips per step.
        device: auto, cpu, cuda ...
        workers: processes that load clips; default: by the number of cores.
        cache: folder that keeps rendered clips, as for trainers.run.
        plot: PNG to draw the same figures to.
    """
    where = choose_device(device)
    outcomes, plain = {}, {}
    for path in checkpoints:
        name = path.parent.name if path.stem == "best" else path.stem  # a run's, or a file's own
        if name in outcomes:
            raise ValueError(f"two checkpoints are called {name}: rename one, so that their rows differ")
        model = ffn.load(path).to(where)
        source = create_source(data, "val", size=model.spec.preprocess.size, cache=cache)
        loaders = default_workers(where) if workers is None else workers
        outcome = evaluate(model, source, frames, batch_size, loaders, bar=name)
        outcomes[name] = outcome
        if not model.spec.flexible:
            plain[model.spec.frames[0]] = outcome
    if ensemble:
        outcomes["ensemble"] = together(plain, lambda _: list(plain))
    if separate:
        outcomes["separate training"] = together(plain, lambda count: [nearest(plain, count)])
    accuracy = {name: outcome.accuracy for name, outcome in outcomes.items()}
    print(report.markdown(accuracy))
    if plot:
        write_atomically(plot, lambda partial: report.plot_accuracy(partial, accuracy))


def together(outcomes: dict[int, Outcome], members: Callable[[int], list[int]]) -> Outcome:
    """At each frame count, the mean prediction of the ``members``, named by the counts they are trained at."""
    if not outcomes:
        raise ValueError("ensemble and separate need checkpoints of plain networks")
    first = next(iter(outcomes.values()))
    mean = {
        count: torch.stack([outcomes[n].probabilities[count] for n in members(count)]).mean(0)
        for count in first.probabilities
    }
    return Outcome(mean, first.labels)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except ValueError as error:
        print(f"trainers.evaluate: {error}", file=sys.stderr)
        sys.exit(2)
