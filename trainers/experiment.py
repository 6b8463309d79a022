"""The paper's experiment on Motion, as data: every run it takes, in order of importance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NETWORKS = {
    "tsm_tiny": (4, 8, 16),
    "tea_tiny": (4, 8, 16),
    "slowfast_tiny": (8, 16, 32),  # Motion's clips have 32 frames; the paper's 16/32/64 would repeat them
    "uniformer_tiny": (4, 8, 16),
}
DEPTH = "tsm_tiny"  # the network of the paper's other tables

FULL = {"clips": 25_200, "epochs": 8}
QUICK = {"clips": 126, "val_clips": 42, "size": 32, "epochs": 1, "batch_size": 21, "warm_start": 0}


@dataclass(frozen=True)
class Run:
    """One training run: fields of :class:`trainers.config.Config` by bare names; ``label`` names its row."""

    model: str
    label: str
    settings: dict[str, Any]
    seed: int = 0
    after: str | None = None
    """label of the run whose best checkpoint it starts from"""

    @property
    def name(self) -> str:
        """The run's folder."""
        return f"{self.model}-{self.label}-seed{self.seed}"


def runs(seeds: tuple[int, ...], networks: tuple[str, ...]) -> Iterator[Run]:
    """Every run, those that say most first: one seed of the main table, the other tables, other seeds."""
    first, *others = seeds
    for model in networks:
        yield from main_table(model, first)
    if DEPTH in networks:
        yield from other_tables(first)
    for seed in others:
        for model in networks:
            yield from main_table(model, seed)


def main_table(model: str, seed: int) -> Iterator[Run]:
    """FFN, the base (trained at H) and separate training at the lower frequencies."""
    *lower, high = frames = NETWORKS[model]
    yield Run(model, "ffn", {"frames": frames}, seed)
    yield Run(model, "base", {"method": "plain", "frames": (high,)}, seed)
    for count in lower:
        yield Run(model, f"st{count}", {"method": "plain", "frames": (count,)}, seed)


def other_tables(seed: int) -> Iterator[Run]:
    """Other ways to train one network, the ablations, and other sets of frequencies."""
    low, mid, high = frames = NETWORKS[DEPTH]
    for method in ("mixed", "proportional"):
        for rho in (0.5, 0.75):
            settings = {"method": method, "frames": (low, high), "rho": rho}
            yield Run(DEPTH, f"{method}{rho * 100:.0f}", settings, seed)
    yield Run(DEPTH, "finetune", {"method": "finetune", "frames": (low,)}, seed, after="base")
    yield Run(DEPTH, "ffn_shared_norms", {"frames": frames, "private_norms": False}, seed)
    yield Run(DEPTH, "ffn_unaltered", {"frames": frames, "alteration": False}, seed)
    yield Run(DEPTH, "ffn_undistilled", {"frames": frames, "distillation": 0.0, "lower_labels": 1.0}, seed)
    yield Run(DEPTH, "ffn_unshared", {"frames": frames, "share_weights": False}, seed)
    yield Run(DEPTH, "ffn2", {"frames": (low, high)}, seed)
    yield Run(DEPTH, "ffn4", {"frames": (low, mid, (mid + high) // 2, high)}, seed)
