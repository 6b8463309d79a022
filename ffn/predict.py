"""Predictor: one network, any frame count, with the time each step took."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ffn.deploy import deploy as deployed
from ffn.flexible import nearest, unwrapped
from ffn.preprocess import Preprocess
from ffn.registry import spec_of
from ffn.sampling import RULES


@dataclass(frozen=True)
class Prediction:
    """What a network says of one clip.

    ``frames`` were sampled, at ``indices`` of the video; ``frequency`` is the training frequency whose
    sub-network was used (None if the network does not know its own); ``top`` are (class, probability),
    best first; times are in milliseconds.
    """

    frames: int
    frequency: int | None
    indices: list[int]
    top: list[tuple[str, float]]
    probabilities: Tensor
    read_ms: float
    preprocess_ms: float
    network_ms: float


class Predictor:
    """Predicts clips with ``model`` (plain or frame-flexible); several threads may call it at once.

    It predicts through deployed networks (:func:`ffn.deploy`), one for each training frequency, made of the
    weights that ``model`` has when that frequency is first asked for. ``deploy=False`` uses ``model`` itself.
    """

    def __init__(self, model: nn.Module, device: str | torch.device = "cpu", deploy: bool = True):
        self._inner = unwrapped(model)
        spec = spec_of(self._inner)
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        self.preprocess = spec.preprocess if spec else Preprocess()
        self.classes = spec.classes if spec else None
        self.frames = spec.frames if spec else getattr(self._inner, "frames", ())
        self.deploys = deploy
        self._networks: dict[int | None, nn.Module] = {}
        self._building = threading.Lock()

    def frequency_for(self, num_frames: int) -> int | None:
        """The training frequency nearest to ``num_frames``; None if the network's are not known."""
        return nearest(self.frames, num_frames) if self.frames else None

    def network(self, frames: int) -> nn.Module:
        """What computes the logits of clips of ``frames`` frames; made when first asked for, and kept."""
        if not self.deploys:
            return self.model
        frequency = self.frequency_for(frames)
        with self._building:
            if frequency not in self._networks:
                self._networks[frequency] = deployed(self.model, frames)
            return self._networks[frequency]

    @torch.inference_mode()
    def __call__(self, clip, frames: int, top: int = 5) -> Prediction:
        """Predict ``clip`` (see :mod:`ffn.video`) from ``frames`` frames spread over all of it.

        Raises:
            ValueError: if ``frames`` is below 1.
            VideoError: if the clip cannot be read.
        """
        if frames < 1:
            raise ValueError(f"a clip needs at least 1 frame, not {frames}")
        network = self.network(frames)
        start = time.perf_counter()
        indices = RULES[self.preprocess.sampling].test(clip.num_frames, frames)
        images = clip.read(indices)
        read = time.perf_counter()
        x = self.preprocess.normalise(self.preprocess.spatial(images)[None].to(self.device))
        prepared = time.perf_counter()
        probabilities = network(x)[0].float().softmax(0).cpu()
        done = time.perf_counter()
        best = probabilities.topk(min(top, len(probabilities)))
        names = self.classes or [f"class {i}" for i in range(len(probabilities))]
        return Prediction(
            frames=frames,
            frequency=self.frequency_for(frames),
            indices=indices,
            top=[(names[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)],
            probabilities=probabilities,
            read_ms=(read - start) * 1e3,
            preprocess_ms=(prepared - read) * 1e3,
            network_ms=(done - prepared) * 1e3,
        )
