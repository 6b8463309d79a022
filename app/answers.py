"""What visitors ask of a clip: one frame count, all of them, a time budget, a cascade."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.clips import COUNTS, THUMBNAIL, Clips, Cut
from app.gpu import on_gpu
from app.networks import Entry, Network, Networks, Pair
from app.settings import Settings
from ffn.adaptive import cascade, check_cascade
from ffn.predict import Prediction
from ffn.video import LoadedClip

TOP = 5
# Coarse to fine, so that curves have their shape early and then fill in.
SWEEP = list(dict.fromkeys([1, *range(8, 33, 8), *range(4, 33, 4), *range(2, 33, 2), *COUNTS]))


@dataclass(frozen=True)
class Cost:
    """Of the network alone, for one clip on this machine; billions of multiply-adds."""

    ms: float
    gflops: float


@dataclass(frozen=True)
class Point:
    """What a pair of networks says from some frames, and what that costs; None without a plain one."""

    main: Prediction
    plain: Prediction | None
    main_cost: Cost
    plain_cost: Cost | None

    @property
    def frames(self) -> int:
        return self.main.frames


@dataclass(frozen=True)
class Fit:
    """The most frames within a budget, the time they take, and the time one more would take."""

    frames: int
    ms: float
    more_ms: float | None


@dataclass(frozen=True)
class Stage:
    """One step of a cascade; ``prediction`` is None where it stopped before."""

    frames: int
    cost: Cost
    prediction: Prediction | None


class Answers:
    """Decoded clips and loaded networks, and what they answer; threads may share one."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.networks = Networks(settings)
        self.clips = Clips(settings)
        # Marked here and not where they are defined: a GPU's process is sent the arguments, not all of this.
        self.predict = on_gpu(self._predict)
        self.sweep = on_gpu(self._sweep)
        self.fit = on_gpu(self._fit)
        self.cascade = on_gpu(self._cascade)

    def cut(self, pair: Pair, start: float = 0, end: float | None = None) -> Cut:
        """What to keep of a clip for both networks."""
        entries = [entry for entry in (pair.main, pair.plain) if entry]
        short_side = max(THUMBNAIL, *(entry.preprocess.resize for entry in entries))
        return Cut(start, end, pair.main.preprocess.sampling, short_side)

    def clip(self, path: str | Path, cut: Cut) -> LoadedClip:
        return self.clips.get(path, cut)

    def _predict(self, pair: Pair, clip: LoadedClip, frames: int) -> tuple[Prediction, Prediction | None]:
        networks = (self._network(entry) for entry in (pair.main, pair.plain))
        main, plain = (network and network.predictor(clip, frames, TOP) for network in networks)
        return main, plain

    def _sweep(self, pair: Pair, clip: LoadedClip) -> Iterator[Point]:
        main, plain = self._network(pair.main), self._network(pair.plain)
        for frames in SWEEP:
            predictions = self._predict(pair, clip, frames)
            yield Point(*predictions, _cost(main, frames), plain and _cost(plain, frames))

    def _fit(self, entry: Entry, milliseconds: float) -> Fit:
        """Raises ValueError (BudgetError) if nothing fits."""
        latency = self._network(entry).latency
        frames = latency.most_frames(milliseconds, COUNTS)
        more = latency[frames + 1] if frames + 1 in COUNTS else None
        return Fit(frames, latency[frames], more)

    def _cascade(
        self, entry: Entry, clip: LoadedClip, confidence: float, counts: tuple[int, ...] | None = None
    ) -> list[Stage]:
        """``counts`` default to the training frequencies that are kept; ValueError if they do not ascend."""
        trained = tuple(count for count in entry.frames if count in COUNTS)
        counts = counts or (trained if len(trained) > 1 else (4, 8, 16))
        check_cascade(counts, confidence)
        network = self._network(entry)
        _, tried = cascade(network.predictor, clip, counts, confidence, TOP)
        predictions = tried + [None] * (len(counts) - len(tried))
        return [Stage(c, _cost(network, c), p) for c, p in zip(counts, predictions, strict=True)]

    def _network(self, entry: Entry | None) -> Network | None:
        return entry and self.networks.load(entry)


def _cost(network: Network, frames: int) -> Cost:
    return Cost(network.latency[frames], network.gflops(frames))
