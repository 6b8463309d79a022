"""The golden outputs of the released networks, when they are there: weights, inputs, expected values.

Every tensor of a released state dict is filled from its own name, so that outputs can be compared
without the released weights. Set ``FFN_PARITY`` to the goldens' folder if it is not beside the project.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"
FOLDER = Path(os.environ.get("FFN_PARITY", SHARED / "parity"))
FAMILIES = ("tsm", "tea", "slowfast", "uniformer")

needs_goldens = pytest.mark.skipif(not FOLDER.is_dir(), reason="the golden outputs are not here")


@cache
def golden(kind: str) -> dict:
    """``inference_ffn``, ``inference_plain`` or ``training_ffn``: per family, its golden values."""
    return json.loads((FOLDER / f"{kind}.json").read_text())


def weight(name: str, shape: list[int]) -> torch.Tensor:
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.int64)
    if name.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif name.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 1 and name.endswith("weight"):
        value = 1 + 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1 or "adaconv" in name:
        value = 0.1 * rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape) * math.sqrt(1 / math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(value, np.float32))


def state_dict(kind: str, family: str) -> dict[str, torch.Tensor]:
    """The released network's state dict, filled by name."""
    return {name: weight(name, shape) for name, shape in golden(kind)[family]["keys"]}


def clip(seed: int, batch: int, frames: int, size: int) -> torch.Tensor:
    """A normalised clip ``(B, 3, T, H, W)``."""
    values = np.random.RandomState(seed).standard_normal((batch, frames, 3, size, size))
    return torch.from_numpy(values.astype(np.float32)).transpose(1, 2)
