"""The cells of the paper's tables, as data: how each network was trained, and what the paper reports for it.

Zhang et al., "Frame Flexible Network", CVPR 2023, tables 1 to 6; settings as in the released scripts. A recipe
is named ``network-method-dataset``: ``tsm-ffn-ssv1``; the base is trained at the highest frequency, separate
training (``st4``, ``st8``) at one of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainers.jobs.paths import runs


@dataclass(frozen=True)
class Recipe:
    """``settings`` are fields of :class:`trainers.config.Config` by bare names; ``paper`` is the published
    top-1 (%) at each frame count."""

    settings: dict[str, Any]
    paper: dict[int, float]


# Where our defaults are others, which suit networks that begin untaught.
PAPER = {"distillation": 1.0, "lower_labels": 0.0, "warmup_epochs": 0.0}
SGD = PAPER | {"optimizer": "sgd", "schedule": "step", "batch_size": 32}
TWO_D = SGD | {"groups": "released", "clip_norm": 20.0, "dropout": 0.5, "weight_decay": 5e-4, "epochs": 50}
TWO_D |= {"augment": "multiscale", "init": "imagenet"}
TSM = TWO_D | {"model": "tsm_resnet50", "lr": 0.01, "milestones": (20, 40)}
TEA = TWO_D | {"model": "tea_resnet50", "lr": 0.02, "milestones": (30, 40, 45)}
SLOWFAST = SGD | {"model": "slowfast_resnet50", "lr": 0.03, "epochs": 22, "milestones": (14, 18)}
SLOWFAST |= {"warmup_epochs": 0.19, "warmup_lr": 1e-4, "weight_decay": 1e-6, "batch_size": 16, "dropout": 0.5}
SLOWFAST |= {"augment": "short_side", "train_size": 224, "init": "kinetics400"}
UNIFORMER = PAPER | {
    "model": "uniformer_small",
    "lr": 2e-4,
    "epochs": 60,
    "schedule": "cosine",
    "final_lr": 1e-6,
}
UNIFORMER |= {"warmup_epochs": 5.0, "warmup_lr": 1e-6, "weight_decay": 0.05, "batch_size": 64, "dropout": 0.0}
# 32 videos a step, as released, each of them twice.
UNIFORMER |= {"drop_path": 0.2, "augment": "randaugment", "repeats": 2, "mixup": 0.8, "cutmix": 1.0}
UNIFORMER |= {"label_smoothing": 0.1, "init": "kinetics600"}

SSV1, SSV2 = {"data": "ssv1"}, {"data": "ssv2"}
KINETICS = {"data": "kinetics", "weight_decay": 1e-4, "flip": True}
HMDB51 = {"data": "hmdb51", "flip": True}

# network-dataset: its settings, its training frequencies, and the paper's top-1 of the base (trained at H),
# separate training and FFN, each at L, M and H.
MAIN = {
    ("tsm", "ssv1"): (
        TSM | SSV1,
        (4, 8, 16),
        ((20.60, 37.36, 48.55), (39.71, 45.63, 48.55), (42.85, 48.20, 50.79)),
    ),
    ("tea", "ssv1"): (
        TEA | SSV1,
        (4, 8, 16),
        ((21.78, 41.49, 51.23), (41.36, 48.37, 51.23), (44.97, 51.61, 54.04)),
    ),
    ("slowfast", "ssv1"): (
        SLOWFAST | SSV1,
        (16, 32, 64),
        ((15.08, 35.08, 45.88), (39.91, 44.12, 45.88), (43.90, 47.11, 47.27)),
    ),
    ("uniformer", "ssv1"): (
        UNIFORMER | SSV1,
        (4, 8, 16),
        ((22.38, 47.98, 56.71), (44.33, 51.49, 56.71), (51.41, 56.64, 58.88)),
    ),
    ("tsm", "ssv2"): (
        TSM | SSV2,
        (4, 8, 16),
        ((31.52, 51.55, 61.02), (53.38, 59.29, 61.02), (56.07, 61.86, 63.61)),
    ),
    ("tsm", "kinetics"): (
        TSM | KINETICS,
        (4, 8, 16),
        ((64.10, 69.77, 73.16), (66.25, 70.38, 73.16), (68.96, 72.33, 74.35)),
    ),
    ("tsm", "hmdb51"): (
        TSM | HMDB51,
        (4, 8, 16),
        ((42.16, 46.38, 48.30), (44.74, 46.77, 48.30), (45.67, 47.67, 48.80)),
    ),
}
# The paper's other cells, all of TSM on Something-Something V1.
T = TSM | SSV1 | {"frames": (4, 8, 16)}
LH = T | {"frames": (4, 16)}
OTHERS = {
    "tsm-mixed50-ssv1": (LH | {"method": "mixed", "rho": 0.5}, {4: 27.89, 8: 41.07, 16: 48.44}),
    "tsm-mixed75-ssv1": (LH | {"method": "mixed", "rho": 0.75}, {4: 30.43, 8: 42.56, 16: 47.81}),
    "tsm-proportional50-ssv1": (LH | {"method": "proportional", "rho": 0.5}, {4: 37.56, 8: 44.82, 16: 45.37}),
    "tsm-proportional75-ssv1": (LH | {"method": "proportional", "rho": 0.75}, {4: 32.06, 8: 43.15, 16: 47.14}),
    "tsm-finetune4-ssv1": (
        T | {"method": "finetune", "frames": (4,), "init": f"{runs()}/tsm-base-ssv1/best.safetensors"},
        {4: 39.95, 8: 40.37, 16: 28.96},
    ),
    "tsm-ffn_shared_norms-ssv1": (T | {"private_norms": False}, {4: 35.79, 8: 46.80, 16: 44.62}),
    "tsm-ffn_unaltered-ssv1": (T | {"alteration": False}, {4: 41.91, 8: 47.92, 16: 49.84}),
    "tsm-ffn_undistilled-ssv1": (
        T | {"distillation": 0.0, "lower_labels": 1.0},
        {4: 39.61, 8: 45.65, 16: 48.07},
    ),
    "tsm-ffn_unshared-ssv1": (T | {"share_weights": False}, {4: 41.51, 8: 47.16, 16: 48.23}),
    "tsm-ffn2-ssv1": (LH, {8: 37.93}),
    "tsm-ffn4-ssv1": (T | {"frames": (4, 8, 12, 16)}, {4: 43.40, 8: 48.66, 12: 49.77, 16: 50.63}),
    "tsm18-ffn-ssv1": (T | {"model": "tsm_resnet18"}, {4: 36.83, 8: 41.61, 16: 43.57}),
    "tsm101-ffn-ssv1": (T | {"model": "tsm_resnet101"}, {4: 45.15, 8: 50.24, 16: 51.79}),
}
# The paper's any-frame curves, of TSM on Something-Something V1.
EVERY = (4, 6, 8, 10, 12, 14, 16)
ANY_FRAME = {
    "tsm-base-ssv1": (20.60, 30.23, 37.36, 42.72, 45.97, 47.49, 48.55),
    "tsm-ffn-ssv1": (42.85, 46.57, 48.20, 48.81, 48.90, 50.47, 50.79),
}


def _recipes() -> dict[str, Recipe]:
    recipes = {}
    for (network, dataset), (settings, frames, (base, separate, flexible)) in MAIN.items():
        low, mid, high = frames
        plain = settings | {"method": "plain"}
        recipes |= {
            f"{network}-ffn-{dataset}": Recipe(settings | {"frames": frames}, _at(frames, flexible)),
            f"{network}-base-{dataset}": Recipe(plain | {"frames": (high,)}, _at(frames, base)),
            f"{network}-st{mid}-{dataset}": Recipe(plain | {"frames": (mid,)}, {mid: separate[1]}),
            f"{network}-st{low}-{dataset}": Recipe(plain | {"frames": (low,)}, {low: separate[0]}),
        }
    recipes |= {name: Recipe(*cell) for name, cell in OTHERS.items()}
    return {
        name: Recipe(recipe.settings, _at(EVERY, ANY_FRAME[name]) if name in ANY_FRAME else recipe.paper)
        for name, recipe in recipes.items()
    }


def _at(frames: tuple[int, ...], accuracy: tuple[float, ...]) -> dict[int, float]:
    return dict(zip(frames, accuracy, strict=True))


RECIPES = _recipes()
