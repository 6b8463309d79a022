"""What networks predicted for a data set's clips, and the figures that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ffn.adaptive import check_cascade


@dataclass(frozen=True)
class Outcome:
    """A network's class probabilities ``(N, num_classes)`` for N clips at each frame count, and the labels.

    ``failures`` says of each clip that could not be read, and is not among them, which and why.
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

    def by_class(self, count: int) -> list[float]:
        """Share of each class's clips, in percent, that were told; nan for a class without any."""
        matrix = self.confusion(count)
        return (100 * matrix.diag() / matrix.sum(1)).tolist()

    def cascade(self, counts: Iterable[int], confidence: float, cost: dict[int, float]) -> Cascade:
        """What :func:`ffn.adaptive.cascade` would have made of these clips; ``cost`` is of one clip, by count.

        Raises:
            ValueError: as there.
        """
        counts = tuple(counts)
        check_cascade(counts, confidence)
        tried = torch.stack([self.probabilities[count] for count in counts], 1)  # (N, counts, classes)
        sure = tried.amax(2) >= confidence
        sure[:, -1] = True
        last = (~sure).cumprod(1).sum(1)  # place of the first count that is sure
        predicted = tried[torch.arange(len(last)), last].argmax(1)

        def spent(each: Iterable[float]) -> float:
            return torch.tensor(list(each)).double().cumsum(0)[last].mean().item()

        correct = 100 * (predicted == self.labels).float().mean().item()
        return Cascade(counts, confidence, correct, spent(counts), spent(cost[count] for count in counts))


@dataclass(frozen=True)
class Cascade:
    """Top-1 (%) of predictions from ever more frames until one is sure; the means of the frames and of the
    GFLOPs that a clip took, those of its unsure predictions included."""

    counts: tuple[int, ...]
    confidence: float
    top1: float
    frames: float
    gflops: float


def together(outcomes: dict[Hashable, Outcome], members: Callable[[int], list[Hashable]]) -> Outcome:
    """At each frame count, the mean prediction of its ``members``, keys of ``outcomes``.

    Raises:
        ValueError: if there are no outcomes, or they are of different clips.
    """
    if not outcomes:
        raise ValueError("--ensemble and --separate need checkpoints of plain networks")
    first = next(iter(outcomes.values()))
    if not all(torch.equal(outcome.labels, first.labels) for outcome in outcomes.values()):
        raise ValueError("--ensemble and --separate need networks that could read the same clips")
    mean = {
        count: torch.stack([outcomes[n].probabilities[count] for n in members(count)]).mean(0)
        for count in first.probabilities
    }
    return Outcome(mean, first.labels, first.failures)
