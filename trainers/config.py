"""What a training run is: one dataclass, which is the command line, the stored config and the form."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import ffn
from trainers.data import SOURCES
from trainers.methods import METHODS


@dataclass(frozen=True)
class Config:
    """Train a video network. Everything the run makes lands in OUT."""

    out: Path
    """folder of the run: config.json, metrics.csv, last.pt, best.safetensors, results.json, results.png"""
    model: str = "tsm_tiny"
    """network, one of ffn.list_models()"""
    data: str = "motion"
    """data set"""
    method: str = "ffn"
    """ffn: one network for every frame count; plain: the network as it is, at one frame count"""
    frames: tuple[int, ...] = (4, 8, 16)
    """training frequencies, in frames"""
    epochs: int = 10
    """passes over the training clips, warm start included"""
    warm_start: int | None = None
    """epochs of cross-entropy at fewer frames before the method proper; default: 40 % of the epochs"""
    batch_size: int = 32
    """videos per step; each gives one clip per frequency"""
    lr: float = 1e-3
    """peak learning rate (AdamW, one cycle)"""
    weight_decay: float = 0.05
    """of convolutions and linear layers; norms, biases and alterations have none"""
    distillation: float = 1.0
    """lambda: weight of the lower frequencies' KL divergence from the highest (method ffn)"""
    clips: int | None = None
    """training clips (Motion renders as many as you ask for); default: the data set's own number"""
    val_clips: int | None = None
    """validation clips; default: the data set's own number"""
    size: int | None = None
    """side of the square clips, in pixels; default: the network's own"""
    cache: Path | None = None
    """folder that keeps rendered clips for later epochs and runs (Motion at 64 pixels: 0.4 MB per clip)"""
    seed: int = 0
    """of weights, order and sampling"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the device computes in it, else fp32"""
    workers: int | None = None
    """processes that load clips; default: by the number of cores"""
    recipe: str | None = None
    """name of the recipe it came from"""
    resume: bool = False
    """go on with the run in OUT, with the configuration stored there"""

    def check(self) -> None:
        """Raises ValueError, with one sentence, for a field that cannot be."""
        _one_of("model", self.model, ffn.list_models())
        _one_of("data", self.data, SOURCES)
        _one_of("method", self.method, METHODS)
        if not self.frames or min(self.frames) < 1 or len(set(self.frames)) < len(self.frames):
            raise ValueError(f"frames must be different counts of at least 1, not {self.frames}")
        if self.method == "plain" and len(self.frames) > 1:
            raise ValueError(f"method plain trains at one frame count, as in --frames {max(self.frames)}")
        for name in ("epochs", "batch_size", "lr", "clips", "val_clips", "size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if self.warm_start is not None and not 0 <= self.warm_start <= self.epochs:
            raise ValueError(f"warm_start must lie between 0 and epochs ({self.epochs}), not {self.warm_start}")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers must be 0 or more, not {self.workers}")

    @property
    def warm_epochs(self) -> int:
        return round(0.4 * self.epochs) if self.warm_start is None else self.warm_start

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, default=str)

    def resolved(self) -> Config:
        self.check()
        return self

    def command(self) -> list[str]:
        """The arguments of ``python -m trainers.run``: what differs from the defaults."""
        given: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == field.default or field.name == "resume":
                continue
            values = value if isinstance(value, tuple) else (value,)
            given += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return given

    @classmethod
    def from_json(cls, text: str) -> Config:
        known = {field.name for field in fields(cls)}
        stored = {name: value for name, value in json.loads(text).items() if name in known}
        stored |= {name: Path(stored[name]) for name in ("out", "cache") if stored.get(name)}
        return cls(**stored | {"frames": tuple(stored["frames"])})


def _one_of(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"there is no {name} {value!r}; choose one of {', '.join(choices)}")
