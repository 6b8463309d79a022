"""How many frames a clip gets: as many as a time budget allows, or as few as make the network sure."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ffn.checkpoint import unique_tensors, write_atomically
from ffn.measure import latency
from ffn.predict import Prediction, Predictor

SECONDS = 0.5  # to measure one frame count for


class BudgetError(ValueError):
    """A budget that not even the fewest frames fit; the message says how fast the network is."""


class LatencyCurve:
    """Median milliseconds that ``predictor``'s network takes on one clip, by frame count.

    Decoding and preprocessing are not part of it. A count is measured when first asked for, for about
    ``seconds`` within 5 and 50 runs, and kept in ``folder``, for these weights on this device with this
    PyTorch and number of threads; without a folder it is kept in ``points`` only.
    """

    def __init__(self, predictor: Predictor, folder: str | Path | None = None, seconds: float = SECONDS):
        self.predictor = predictor
        self.seconds = seconds
        self._path = Path(folder) / f"latency-{_fingerprint(predictor)}.json" if folder else None
        self.points = _stored(self._path)

    def __getitem__(self, frames: int) -> float:
        if frames not in self.points:
            self.points[frames] = self._measure(frames)
            self._store()
        return self.points[frames]

    def most_frames(self, budget_ms: float, counts: Sequence[int] | None = None) -> int:
        """The largest of ``counts`` whose latency is at most ``budget_ms``.

        ``counts`` ascend; by default from 1 to twice the network's highest training frequency. More frames
        take longer, so bisection finds it, and few counts are measured.

        Raises:
            BudgetError: if not even the first fits.
            ValueError: if the budget is not above 0.
        """
        if not budget_ms > 0:
            raise ValueError(f"a budget must be above 0 ms, not {budget_ms:g}")
        counts = counts or range(1, 2 * max(self.predictor.frames, default=16) + 1)
        if self[counts[0]] > budget_ms:
            fewest = "1 frame takes" if counts[0] == 1 else f"{counts[0]} frames take"
            raise BudgetError(
                f"a budget of {budget_ms:g} ms is too small: {fewest} {self[counts[0]]:.1f} ms here"
            )
        fits, exceeds = 0, len(counts)
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            if self[counts[middle]] <= budget_ms:
                fits = middle
            else:
                exceeds = middle
        return counts[fits]

    def warm_up(self, frames: int) -> None:
        """Run the network once: the first run of a process, which sets libraries up, takes longer."""
        with torch.inference_mode():
            self.predictor.network(frames)(self._clip(frames))

    def _measure(self, frames: int) -> float:
        network, clip = self.predictor.network(frames), self._clip(frames)
        about = latency(network, clip, repeats=3, warm_up=1).median
        repeats = round(min(max(self.seconds * 1e3 / about, 5), 50))
        return latency(network, clip, repeats, warm_up=0).median

    def _clip(self, frames: int) -> Tensor:
        size = self.predictor.preprocess.size
        return torch.rand(1, 3, frames, size, size, device=self.predictor.device)

    def _store(self) -> None:
        if self._path is None:
            return
        text = json.dumps({count: self.points[count] for count in sorted(self.points)})
        try:
            write_atomically(self._path, lambda partial: partial.write_text(text))
        except OSError:
            self._path = None  # a folder that cannot be written only costs time


def cascade(
    predictor: Predictor, clip, counts: Sequence[int], confidence: float, top: int = 5
) -> tuple[Prediction, list[Prediction]]:
    """Predict ``clip`` from more and more frames, ``counts`` (ascending), until the network is sure.

    Sure is a best class of probability ``confidence`` or more. Returns the last prediction, sure or not,
    and all of them in order.

    Raises:
        ValueError: if ``counts`` is empty or does not ascend, or ``confidence`` is not within 0 to 1.
    """
    check_cascade(counts, confidence)
    tried = []
    for count in counts:
        tried.append(predictor(clip, count, top))
        if tried[-1].probabilities.max() >= confidence:
            break
    return tried[-1], tried


def check_cascade(counts: Sequence[int], confidence: float) -> None:
    """Raise ValueError if :func:`cascade` cannot do with these."""
    if counts and min(counts) < 1:
        raise ValueError(f"a clip needs at least 1 frame, not {min(counts)}")
    if not counts or sorted(set(counts)) != list(counts):
        raise ValueError(
            f"a cascade needs frame counts that ascend, as in 4 8 16, not {' '.join(map(str, counts))}"
        )
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence is a probability, from 0 to 1, not {confidence:g}")


def _stored(path: Path | None) -> dict[int, float]:
    try:
        return {int(count): float(ms) for count, ms in json.loads(path.read_text()).items()} if path else {}
    except (OSError, ValueError, AttributeError):  # absent or damaged: measured anew
        return {}


def _fingerprint(predictor: Predictor) -> str:
    """What latency depends on, and the weights."""
    device = predictor.device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.node()
    where = (str(device), machine, platform.machine(), os.cpu_count(), torch.get_num_threads())
    what = (torch.__version__, predictor.deploys, predictor.preprocess.size)
    digest = hashlib.blake2b(repr((what, where)).encode(), digest_size=16)
    for name, tensor in unique_tensors(predictor.model).items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
