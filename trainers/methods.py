"""Training methods. Each makes the stages of a run; a stage's task turns a batch into losses.

A task *yields* its losses one frame count at a time, and the loop runs each one's backward before it
asks for the next. Since the teacher is detached, the gradients equal those of the summed loss, and
memory peaks at the largest branch instead of their sum.

A new method is a class here and a line in ``METHODS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from ffn import create_backbone, create_model

Forward = Callable[[Tensor], Tensor]  # clip (B, 3, T, H, W) -> logits (B, num_classes)


class Term(NamedTuple):
    """One frame count's losses by name ("ce", "kl"), weighted; their sum is what is learnt from."""

    frames: int
    losses: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        return sum(self.losses.values())


class Task(Protocol):
    frames: tuple[int, ...]
    """the frame counts at which every training video is drawn"""

    def losses(
        self, forward: Forward, clips: dict[int, Tensor], labels: Tensor, rng: np.random.Generator
    ) -> Iterator[Term]:
        """Yields the terms whose sum is the loss.

        ``clips`` maps T to clips (B, 3, T, H, W); ``labels`` are class numbers (B,) or probabilities
        (B, num_classes); ``rng`` draws the same in every process of a run.
        """


@dataclass(frozen=True)
class CrossEntropy:
    """Every frame count learns from the labels."""

    frames: tuple[int, ...]
    smoothing: float = 0.0

    def losses(self, forward, clips, labels, rng=None) -> Iterator[Term]:
        for count in self.frames:
            yield self._term(forward, clips[count], labels, count)

    def _term(self, forward: Forward, clip: Tensor, labels: Tensor, count: int) -> Term:
        return Term(count, {"ce": cross_entropy(forward(clip), labels, self.smoothing)})


@dataclass(frozen=True)
class TemporalDistillation:
    """The paper's loss: the highest frequency learns from the labels, the others from its prediction.

    ``CE(p_H, y) + weight * sum over lower f of KL(p_H || p_f)``, batch means, teacher detached; and, which the
    paper has not, ``lower_labels * CE(p_f, y)`` for each lower f.
    """

    frames: tuple[int, ...]
    weight: float = 1.0
    lower_labels: float = 0.0
    smoothing: float = 0.0

    def losses(self, forward, clips, labels, rng=None) -> Iterator[Term]:
        *lower, high = self.frames
        logits = forward(clips[high]).float()
        teacher = logits.detach().log_softmax(1)
        yield Term(high, {"ce": cross_entropy(logits, labels, self.smoothing)})
        for count in lower:
            logits = forward(clips[count])
            losses = {}
            if self.weight:
                student = logits.float().log_softmax(1)
                divergence = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
                losses["kl"] = self.weight * divergence
            if self.lower_labels:
                losses["ce"] = self.lower_labels * cross_entropy(logits, labels, self.smoothing)
            yield Term(count, losses)


@dataclass(frozen=True)
class MixedSampling(CrossEntropy):
    """One network at the lowest and the highest count, whose clips are sometimes mixed.

    With probability ``rho``, the batch's low clips are averaged with as many consecutive frames of the high
    ones. (The paper mixes "features" and does not say where; here they are mixed at the network's input.)
    """

    rho: float = 0.5

    def losses(self, forward, clips, labels, rng) -> Iterator[Term]:
        low, high = self.frames
        yield self._term(forward, clips[high], labels, high)
        clip = clips[low]
        if rng.random() < self.rho:
            first = int(rng.integers(high - low + 1))
            clip = (clip + clips[high][:, :, first : first + low]) / 2
        yield self._term(forward, clip, labels, low)


@dataclass(frozen=True)
class ProportionalSampling(CrossEntropy):
    """One network; every step draws the highest count, with probability ``rho``, or the lowest."""

    rho: float = 0.5

    def losses(self, forward, clips, labels, rng) -> Iterator[Term]:
        low, high = self.frames
        count = high if rng.random() < self.rho else low
        yield self._term(forward, clips[count], labels, count)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


@dataclass(frozen=True)
class Stage:
    """A task for some epochs; ``begin`` is done to the network first."""

    task: Task
    epochs: int
    begin: Callable[[nn.Module], None] = lambda model: None


class Plain:
    """The network at one frame count: the base at H, or separate training at L or M.

    The warm start is the one that method ``ffn`` gives its highest frequency: the first epochs run at half the
    frames, down to 4, where motion per step is easier to see.
    """

    def usual_frames(self, frames: tuple[int, ...]) -> tuple[int, ...]:
        """What it trains at if nobody says so; ``frames`` are the network's own frequencies."""
        return (max(frames),)

    def check(self, config) -> None:
        """Raises ValueError if the configuration does not suit the method."""
        if len(config.frames or (1,)) > 1:
            raise ValueError(
                f"method {config.method} trains at one frame count, as in --frames {max(config.frames)}"
            )

    def network(self, config, num_classes: int) -> nn.Module:
        model = create_backbone(config.model, num_classes, **config.network.options)
        model.spec = replace(model.spec, frames=tuple(sorted(config.frames)))
        return model

    def stages(self, config) -> list[Stage]:
        (count,), warm, smoothing = config.frames, config.warm_epochs, config.loss.label_smoothing
        fewer = max(min(count, 4), count // 2)
        stages = [Stage(CrossEntropy((fewer,), smoothing), warm)] if warm else []
        return [*stages, Stage(CrossEntropy((count,), smoothing), config.optim.epochs - warm)]


class FineTune(Plain):
    """A network that was trained at another frame count, trained on at this one."""

    def check(self, config) -> None:
        super().check(config)
        if not config.network.init:
            raise ValueError("method finetune starts from a trained network: add --init CHECKPOINT")


class TwoCounts(Plain):
    """One plain network, trained at the lowest and the highest count by the task ``task``."""

    def __init__(self, task: type[CrossEntropy]):
        self.task = task

    def usual_frames(self, frames: tuple[int, ...]) -> tuple[int, ...]:
        return (min(frames), max(frames))

    def check(self, config) -> None:
        if config.frames and len(config.frames) != 2:
            raise ValueError(f"method {config.method} trains at two frame counts, as in --frames 4 16")
        if config.loss.warm_start:
            raise ValueError(f"method {config.method} has no warm start: leave --warm-start away")

    def stages(self, config) -> list[Stage]:
        frames, loss = tuple(sorted(config.frames)), config.loss
        # No schedule of its own for networks that begin untaught: the low count teaches from the start.
        return [Stage(self.task(frames, loss.label_smoothing, loss.rho), config.optim.epochs)]


class FFN:
    """One network for every frequency.

    Warm start, for networks that begin untaught: the paper's loss stalls there, since only H sees labels
    and motion per step is smallest at H, so L and M would follow a teacher that knows nothing. So all but
    H first learn from labels, then H starts from the norms of the frequency below it.
    """

    def usual_frames(self, frames: tuple[int, ...]) -> tuple[int, ...]:
        return frames

    def check(self, config) -> None:
        if not (config.loss.distillation or config.loss.lower_labels):
            raise ValueError(
                "the lower frequencies learn nothing: give --distillation or --lower-labels a weight"
            )

    def network(self, config, num_classes: int) -> nn.Module:
        switches = {
            name: getattr(config.network, name) for name in ("private_norms", "alteration", "share_weights")
        }
        return create_model(config.model, num_classes, config.frames, **switches, **config.network.options)

    def stages(self, config) -> list[Stage]:
        frames, loss = tuple(sorted(config.frames)), config.loss
        proper = TemporalDistillation(frames, loss.distillation, loss.lower_labels, loss.label_smoothing)
        warm = config.warm_epochs if len(frames) > 1 else 0
        if not warm:
            return [Stage(proper, config.optim.epochs)]
        return [
            Stage(CrossEntropy(frames[:-1], loss.label_smoothing), warm),
            Stage(proper, config.optim.epochs - warm, lambda model: model.copy_private(*frames[-2:])),
        ]


METHODS = {
    "ffn": FFN(),
    "plain": Plain(),
    "finetune": FineTune(),
    "mixed": TwoCounts(MixedSampling),
    "proportional": TwoCounts(ProportionalSampling),
}
