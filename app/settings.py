"""What the environment decides: where networks lie, and what is taken of visitors."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from ffn.video import Limits

ROOT = Path(__file__).resolve().parents[1]


KINDS = {"int": int, "float": float, "str": str, "Path": lambda text: Path(text).expanduser()}


@dataclass(frozen=True)
class Settings:
    """Each field is an environment variable: ``max_mb`` is FFN_MAX_MB."""

    checkpoints: Path = ROOT / "assets"
    """folder of the shipped checkpoints"""
    runs: Path = Path("runs")
    """folder of run folders, whose best.safetensors can be picked"""
    network: str = "tsm_tiny-ffn-motion"
    """the network that a visitor meets first, if there is one of that name"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    concurrency: int = 2
    """how many visitors' questions are computed at once; the others queue"""
    max_mb: float = 50
    """size of an uploaded clip"""
    max_seconds: float = 60
    """its length"""
    max_pixels: int = 3840 * 2160
    """pixels of one of its frames"""
    max_decode_seconds: float = 60
    """time that decoding it may take"""
    max_decode_mb: int = 3000
    """memory that decoding it may take"""
    max_checkpoint_mb: float = 500
    """size of an uploaded checkpoint"""
    clip_cache_mb: int = 512
    """decoded clips that are kept"""
    network_cache_mb: int = 2000
    """loaded networks that are kept"""

    @classmethod
    def from_environment(cls) -> Settings:
        """Raises ValueError if a variable holds no number above 0 where one is needed."""
        given = {}
        for field in fields(cls):
            variable, kind = f"FFN_{field.name.upper()}", KINDS[field.type]
            if text := os.environ.get(variable):
                given[field.name] = kind(number(variable) if kind in (int, float) else text)
        return cls(**given)

    @property
    def limits(self) -> Limits:
        """What is accepted of a clip; ``aspect`` bounds what it takes in memory when decoded."""
        return Limits(megabytes=self.max_mb, seconds=self.max_seconds, pixels=int(self.max_pixels), aspect=5)


def number(variable: str) -> float:
    """The number above 0 in an environment variable; ValueError, with one sentence, for anything else."""
    text = os.environ[variable]
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise ValueError(f"the environment variable {variable} must be a number above 0, not {text!r}")
    return value
