"""Training methods. Each makes the stages of a run; a stage's task turns a batch into losses.

A task *yields* its losses one frame count at a time, and the loop runs each one's backward before it
asks for the next. Since the teacher is detached, the gradients equal those of the summed loss, and
memory peaks at the largest branch instead of their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from ffn import create_backbone, create_model

Forward = Callable[[Tensor], Tensor]  # clip (B, 3, T, H, W) -> logits (B, num_classes)


class Term(NamedTuple):
    """One frame count's loss: what it is ("ce" or "kl"), at how many frames, its value."""

    name: str
    frames: int
    loss: Tensor


class Task(Protocol):
    frames: tuple[int, ...]
    """the frame counts at which every training video is drawn"""

    def losses(self, forward: Forward, clips: dict[int, Tensor], labels: Tensor) -> Iterator[Term]:
        """Yields the terms whose sum is the loss; ``clips`` maps T to clips of T frames."""


@dataclass(frozen=True)
class CrossEntropy:
    """Every frame count learns from the labels."""

    frames: tuple[int, ...]

    def losses(self, forward: Forward, clips: dict[int, Tensor], labels: Tensor) -> Iterator[Term]:
        for count in self.frames:
            yield Term("ce", count, F.cross_entropy(forward(clips[count]).float(), labels))


@dataclass(frozen=True)
class TemporalDistillation:
    """The paper's loss: the highest frequency learns from the labels, the others from its prediction.

    ``CE(p_H, y) + weight * sum over lower f of KL(p_H || p_f)``, batch means, teacher detached.
    """

    frames: tuple[int, ...]
    weight: float = 1.0

    def losses(self, forward: Forward, clips: dict[int, Tensor], labels: Tensor) -> Iterator[Term]:
        *lower, high = self.frames
        logits = forward(clips[high]).float()
        teacher = logits.detach().log_softmax(1)
        yield Term("ce", high, F.cross_entropy(logits, labels))
        for count in lower:
            student = forward(clips[count]).float().log_softmax(1)
            divergence = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
            yield Term("kl", count, self.weight * divergence)


@dataclass(frozen=True)
class Stage:
    """A task for some epochs; ``begin`` is done to the network first."""

    task: Task
    epochs: int
    begin: Callable[[nn.Module], None] = lambda model: None


def ffn_stages(config) -> list[Stage]:
    """One network for every frequency.

    Warm start, for networks that begin untaught: the paper's loss stalls there, since only H sees labels
    and motion per step is smallest at H, so L and M would follow a teacher that knows nothing. So all but
    H first learn from labels, then H starts from the norms of the frequency below it.
    """
    frames = tuple(sorted(config.frames))
    proper = TemporalDistillation(frames, config.distillation)
    warm = config.warm_epochs if len(frames) > 1 else 0
    if not warm:
        return [Stage(proper, config.epochs)]
    return [
        Stage(CrossEntropy(frames[:-1]), warm),
        Stage(proper, config.epochs - warm, lambda model: model.copy_private(frames[-2], frames[-1])),
    ]


def plain_stages(config) -> list[Stage]:
    """The network at one frame count: the base at H, or separate training at L or M.

    The warm start is the one that method ``ffn`` gives its highest frequency: the first epochs run at half the
    frames, down to 4, where motion per step is easier to see.
    """
    (count,) = config.frames
    fewer = max(min(count, 4), count // 2)
    stages = [Stage(CrossEntropy((fewer,)), config.warm_epochs)] if config.warm_epochs else []
    return [*stages, Stage(CrossEntropy((count,)), config.epochs - config.warm_epochs)]


class Method(NamedTuple):
    """How a method makes its network (as ``ffn.create_model`` does) and trains it."""

    create: Callable[..., nn.Module]
    stages: Callable[..., list[Stage]]


def _plain_network(name: str, num_classes: int, frames: tuple[int, ...]) -> nn.Module:
    model = create_backbone(name, num_classes)
    model.spec = replace(model.spec, frames=frames)
    return model


METHODS = {"ffn": Method(create_model, ffn_stages), "plain": Method(_plain_network, plain_stages)}
