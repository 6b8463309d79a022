"""Parameter groups, optimiser, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ffn import WeightAlteration
from ffn.flexible import NORMS
from trainers.config import Optimisation


def create_optimizer(model: nn.Module, settings: Optimisation) -> torch.optim.Optimizer:
    groups = GROUPS[settings.groups](model, settings)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, settings.lr, momentum=0.9)
    return torch.optim.AdamW(groups, settings.lr)


def create_schedule(optimizer: torch.optim.Optimizer, settings: Optimisation, steps_per_epoch: int):
    """A schedule to be stepped after each optimiser step; it multiplies each group's own learning rate."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate(settings, steps_per_epoch))


def learning_rate(settings: Optimisation, steps_per_epoch: int) -> Callable[[int], float]:
    """The learning rate at a step (from 0) as a share of ``settings.lr``."""
    total = settings.epochs * steps_per_epoch
    warmup = int(settings.warmup_epochs * steps_per_epoch)
    start, end = settings.warmup_lr / settings.lr, settings.final_lr / settings.lr

    def rate(step: int) -> float:
        if step < warmup:
            return start + (1 - start) * step / warmup
        if settings.schedule == "cosine":
            return _cosine(1.0, end, (step - warmup) / max(total - warmup, 1))
        return 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in settings.milestones)

    return rate


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def _plain_groups(model: nn.Module, settings: Optimisation) -> list[dict]:
    """Parameters with weight decay and, for norms, biases and alterations, without."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def _released_groups(model: nn.Module, settings: Optimisation) -> list[dict]:
    """The released 2D code's: lr and weight decay multiplied by kind of parameter.

    Weights 1 and 1 (alterations too, which are convolutions there), their biases 2 and 0, norms 1 and 0, the
    classifier's weight 5 and 1, its bias 10 and 0.
    """
    lr, decay = settings.lr, settings.weight_decay
    rates = {"weight": (1, 1), "bias": (2, 0), "norm": (1, 0), "head.weight": (5, 1), "head.bias": (10, 0)}
    groups = {
        kind: {"params": [], "lr": lr * faster, "weight_decay": decay * decayed}
        for kind, (faster, decayed) in rates.items()
    }
    for kind, parameter in _kinds(model):
        groups[kind]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def _kinds(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter once, with its kind; the last linear layer is the classifier."""
    heads = {id(p) for branch in _branches(model) for p in _linear_layers(branch)[-1].parameters()}
    seen = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if isinstance(module, NORMS):
                yield "norm", parameter
            else:
                role = "bias" if name == "bias" and not isinstance(module, WeightAlteration) else "weight"
                yield f"head.{role}" if id(parameter) in heads else role, parameter


GROUPS = {"plain": _plain_groups, "released": _released_groups}


def _branches(model: nn.Module) -> list[nn.Module]:
    return list(model.branches.values()) if hasattr(model, "branches") else [model]


def _linear_layers(branch: nn.Module) -> list[nn.Linear]:
    return [module for module in branch.modules() if isinstance(module, nn.Linear)]


def freeze_norms(model: nn.Module) -> None:
    """``partial_bn`` of TSM's code: put every BatchNorm of each branch but the first in evaluation mode, its
    scale and shift fixed. To be done after each ``model.train()``."""
    for branch in _branches(model):
        norms = [module for module in branch.modules() if isinstance(module, _BatchNorm)]
        for norm in norms[1:]:
            norm.eval().requires_grad_(False)
