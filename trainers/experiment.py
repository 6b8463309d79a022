"""The paper's experiment on Motion, as data: every run it takes, in order of importance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

NETWORKS = {
    "tsm_tiny": (4, 8, 16),
    "tea_tiny": (4, 8, 16),
    "slowfast_tiny": (8, 16, 32),  # Motion's clips have 32 frames; the paper's 16/32/64 would repeat them
    "uniformer_tiny": (4, 8, 16),
}
DEPTH = "tsm_tiny"  # the network of the paper's other tables

START = "start"  # the run that every other one begins from, as the paper's begin from ImageNet's weights


class Size(NamedTuple):
    """Settings of every run, what the start has otherwise, and what a network has otherwise."""

    each: dict[str, Any]
    start: dict[str, Any]
    networks: dict[str, Size] = MappingProxyType({})

    def settings(self, run: Run) -> dict[str, Any]:
        """Of ``run``, whose own come first."""
        settings = self.each | (self.start if run.label == START else {})
        if run.model in self.networks:
            settings |= self.networks[run.model].settings(run)
        return settings | run.settings


FULL = Size(
    {"epochs": 2, "val_clips": 2100},
    {"epochs": 4, "lr": 3e-3},
    {"uniformer_tiny": Size({"lr": 1e-3}, {"epochs": 8})},  # which learns nothing at 3e-3
)
QUICK = Size({"clips": 126, "val_clips": 42, "size": 32, "epochs": 1, "batch_size": 21}, {})


@dataclass(frozen=True)
class Run:
    """One training run: fields of :class:`trainers.config.Config` by bare names; ``label`` names its row."""

    model: str
    label: str
    settings: dict[str, Any]
    seed: int = 0
    after: str | None = None
    """label of the run whose best checkpoint it starts from"""
    members: tuple[str, ...] = ()
    """labels of runs whose mean prediction it is; nothing is trained"""

    @property
    def name(self) -> str:
        """The run's folder."""
        return self._name(self.label)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the runs whose best checkpoint it needs."""
        return tuple(map(self._name, self.members or ((self.after,) if self.after else ())))

    def _name(self, label: str) -> str:
        return f"{self.model}-{label}-seed{self.seed}"


def runs(seeds: tuple[int, ...], networks: tuple[str, ...], size: Size = FULL) -> Iterator[Run]:
    """Every run after those it needs, and those that say most first."""
    for run in _by_importance(seeds, networks):
        yield replace(run, settings=size.settings(run))


def _by_importance(seeds: tuple[int, ...], networks: tuple[str, ...]) -> Iterator[Run]:
    """One seed of the main table, the other tables, other seeds."""
    first, *others = seeds
    yield from (start(model, first) for model in networks)
    for model in networks:
        yield from main_table(model, first)
    if DEPTH in networks:
        yield from other_tables(first)
    for seed in others:
        yield from (start(model, seed) for model in networks)
        for model in networks:
            yield from main_table(model, seed)


def start(model: str, seed: int) -> Run:
    """A plain network trained at the lowest frequency, where a step costs least."""
    count = min(NETWORKS[model])
    return Run(model, START, {"method": "plain", "frames": (count,), "warm_start": 0}, seed)


def main_table(model: str, seed: int) -> Iterator[Run]:
    """FFN, the base (trained at H) and separate training at the lower frequencies."""
    *lower, high = frames = NETWORKS[model]
    yield Run(model, "ffn", {"frames": frames}, seed, START)
    yield Run(model, "base", {"method": "plain", "frames": (high,)}, seed, START)
    for count in lower:
        yield Run(model, f"st{count}", {"method": "plain", "frames": (count,)}, seed, START)


def other_tables(seed: int) -> Iterator[Run]:
    """Other ways to train one network, the ablations, and other sets of frequencies."""
    low, mid, high = frames = NETWORKS[DEPTH]
    yield from two_counts(0.5, seed)
    yield Run(DEPTH, "ensemble", {}, seed, members=(f"st{low}", f"st{mid}", "base"))
    yield Run(DEPTH, "finetune", {"method": "finetune", "frames": (low,)}, seed, after="base")
    for label, distillation, lower_labels in (("ffn_undistilled", 0.0, 1.0), ("ffn_paper", 1.0, 0.0)):
        loss = {"distillation": distillation, "lower_labels": lower_labels}
        yield Run(DEPTH, label, {"frames": frames} | loss, seed, START)
    yield Run(DEPTH, "ffn_shared_norms", {"frames": frames, "private_norms": False}, seed, START)
    yield Run(DEPTH, "ffn_unaltered", {"frames": frames, "alteration": False}, seed, START)
    yield Run(DEPTH, "ffn_unshared", {"frames": frames, "share_weights": False}, seed, START)
    yield Run(DEPTH, "ffn2", {"frames": (low, high)}, seed, START)
    yield Run(DEPTH, "ffn4", {"frames": (low, mid, (mid + high) // 2, high)}, seed, START)
    yield from two_counts(0.75, seed)


def two_counts(rho: float, seed: int) -> Iterator[Run]:
    """One plain network for the lowest and the highest frequency."""
    frames = (min(NETWORKS[DEPTH]), max(NETWORKS[DEPTH]))
    for method in ("mixed", "proportional"):
        settings = {"method": method, "frames": frames, "rho": rho}
        yield Run(DEPTH, f"{method}{rho * 100:.0f}", settings, seed, START)
