"""Accuracy of one or several checkpoints over frame counts: ``python -m trainers.evaluate CKPT ...``"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
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

COUNTS = (2, 4, 6, 8, 10, 12, 14, 16, 20, 24)


@dataclass(frozen=True)
class Outcome:
    """A network's class probabilities ``(N, num_classes)`` for N clips at each frame count, and the labels."""

    probabilities: dict[int, Tensor]
    labels: Tensor

    def top(self, k: int, count: int) -> float:
        """Share of the clips, in percent, whose label is among the k likeliest classes."""
        probabilities = self.probabilities[count]
        best = probabilities.topk(min(k, probabilities.shape[1])).indices
        return 100 * (best == self.labels[:, None]).any(1).float().mean().item()

    @property
    def accuracy(self) -> dict[int, float]:
        """Top-1 in percent at each frame count."""
        return {count: self.top(1, count) for count in self.probabilities}


@torch.inference_mode()
def evaluate(
    model: torch.nn.Module, source, counts=COUNTS, batch_size=32, workers=1, bar: str | None = "evaluating"
) -> Outcome:
    """Run ``model`` (which carries a spec) over every clip of ``source`` at each frame count."""
    model.eval()
    device = next(model.parameters()).device
    preprocess = model.spec.preprocess
    probabilities = {count: [] for count in counts}
    labels = []
    batches = test_batches(Clips(source, counts, preprocess), batch_size, workers)
    for clips, batch_labels, *_ in tqdm(batches, bar, unit="batch", leave=False, disable=bar is None):
        labels.append(batch_labels)
        for count, clip in clips.items():
            logits = model(preprocess.normalise(clip.to(device, non_blocking=True)))
            probabilities[count].append(logits.float().softmax(1).cpu())
    return Outcome({count: torch.cat(p) for count, p in probabilities.items()}, torch.cat(labels))


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
