"""The networks a visitor can pick: shipped, trained here, or uploaded."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from cachetools import LRUCache, cached

import ffn
from app import child
from app.settings import Settings
from ffn.adaptive import LatencyCurve
from ffn.checkpoint import read_metadata
from ffn.device import choose_device
from ffn.measure import gflops
from ffn.preprocess import Preprocess

UPLOADED = "uploaded: "
MEASURE = 0.05  # seconds for the latency of one frame count
LOAD_SECONDS, LOAD_MB = 60, 4000  # what reading an uploaded checkpoint may take
MOST_PIXELS = 512  # of the short side of the frames that an uploaded network is given
_SWITCHES = ("share_weights", "private_norms", "alteration")  # of FrameFlexible; they add no multiply-adds
_GFLOPS: dict[tuple, float] = {}  # by kind of network and frame count: slow to find, and the same for all
PICKLES = (".pth", ".pt", ".tar", ".pyth", ".pkl")


@dataclass(frozen=True)
class Entry:
    """A checkpoint by name, and what its header says: enough to list and to compare it."""

    name: str
    path: Path
    model: str
    frames: tuple[int, ...]
    flexible: bool
    classes: tuple[str, ...] | int  # their number, if they have no names
    preprocess: Preprocess

    @property
    def label(self) -> str:
        counts = "/".join(map(str, self.frames))
        kind = f"frame-flexible, {counts}" if self.flexible else f"plain, {counts}"
        return f"{self.name} ({kind})" if self.model in self.name else f"{self.name} ({self.model}, {kind})"

    def class_name(self, index: int) -> str:
        return f"class {index}" if isinstance(self.classes, int) else self.classes[index]


@dataclass(frozen=True)
class Pair:
    """The network that answers, and a plain one of the same kind beside it if there is one."""

    main: Entry
    plain: Entry | None


class Network:
    """A loaded network, and what it costs here; costs are found once per frame count."""

    def __init__(self, path: Path, device: str):
        self.predictor = ffn.Predictor(ffn.load(path), choose_device(device))
        self.latency = LatencyCurve(self.predictor, seconds=MEASURE)

    def gflops(self, frames: int) -> float:
        """Billions of multiply-adds; a frame-flexible network's are those of the plain one it is made of."""
        model, size = self.predictor.model, self.predictor.preprocess.size
        options = {name: value for name, value in model.spec.options.items() if name not in _SWITCHES}
        kind = (model.spec.name, model.spec.num_classes, repr(options), size, frames)
        if kind not in _GFLOPS:
            branch = model.branch(frames) if isinstance(model, ffn.FrameFlexible) else model
            _GFLOPS[kind] = gflops(branch, frames, size)
        return _GFLOPS[kind]

    @property
    def nbytes(self) -> int:
        # Once as it is, and once deployed for each training frequency.
        weights = sum(p.numel() * p.element_size() for p in self.predictor.model.parameters())
        return weights * (1 + max(1, len(self.predictor.frames)))


class Networks:
    """Finds checkpoints in the shipped folder and in the run folders, and keeps the loaded ones."""

    def __init__(self, settings: Settings):
        self._settings = settings
        loaded = LRUCache(settings.network_cache_mb * 2**20, getsizeof=lambda network: network.nbytes)
        self._load = cached(
            loaded, key=lambda path, _: (path, path.stat().st_mtime_ns), condition=threading.Condition()
        )(Network)

    def list(self) -> list[Entry]:
        """Every checkpoint that can be picked: shipped ones first, then runs, newest first."""
        shipped = sorted(self._settings.checkpoints.glob("*.safetensors"))
        runs = [path for path in self._settings.runs.glob("*/best.safetensors") if path.is_file()]
        runs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        named = [(path.stem, path) for path in shipped] + [(path.parent.name, path) for path in runs]
        entries: dict[str, Entry] = {}
        for name, path in named:
            if name not in entries and (entry := _entry(name, path)):
                entries[name] = entry
        return sorted(entries.values(), key=lambda entry: not entry.flexible)

    def find(self, name: str, uploaded: Sequence[Entry] = ()) -> Entry:
        """The network of that name among those listed and ``uploaded``; CheckpointError if there is none."""
        entries = [*uploaded, *self.list()]
        for entry in entries:
            if entry.name == name:
                return entry
        raise ffn.CheckpointError(
            f"there is no network {name}; pick one of {', '.join(e.name for e in entries)}"
        )

    def first(self) -> Entry:
        """The network shown at first; CheckpointError if there is none at all."""
        entries = self.list()
        if not entries:
            raise ffn.CheckpointError(
                f"there is no checkpoint in {self._settings.checkpoints} or {self._settings.runs}: set "
                "FFN_CHECKPOINTS to a folder of .safetensors files, or FFN_RUNS to one of run folders"
            )
        return next((entry for entry in entries if entry.name == self._settings.network), entries[0])

    def pair(self, entry: Entry) -> Pair:
        """``entry`` with the plain network to compare it with: of the same model, for the same classes.

        Of several, the one from the same folder of checkpoints, then the one of most frames.
        """
        if not entry.flexible:
            return Pair(entry, None)
        shipped = self._settings.checkpoints
        rivals = [
            other
            for other in self.list()
            if not other.flexible
            and (other.model, other.classes) == (entry.model, entry.classes)
            and other.preprocess.sampling == entry.preprocess.sampling
        ]
        beside = entry.path.parent == shipped
        rivals.sort(key=lambda other: ((other.path.parent == shipped) == beside, other.frames), reverse=True)
        return Pair(entry, rivals[0] if rivals else None)

    def load(self, entry: Entry) -> Network:
        """Raises CheckpointError, with one sentence, if it is gone or damaged."""
        if not entry.path.is_file():
            raise ffn.CheckpointError(f"{entry.name} is not here any longer: pick another network")
        return self._load(entry.path, self._settings.device)

    def accept(self, path: Path) -> Entry:
        """The entry of an uploaded checkpoint: ours, or a released one, in whose place ours is put.

        A child process reads it first, for a stranger's header may describe a network of any size.

        Raises:
            CheckpointError: with one sentence, if it cannot be used.
        """
        megabytes = path.stat().st_size / 2**20
        if megabytes > self._settings.max_checkpoint_mb:
            raise ffn.CheckpointError(
                f"{path.name} has {megabytes:.0f} MB; at most {self._settings.max_checkpoint_mb:g} MB are taken"
            )
        try:
            child.run(convert, path, seconds=LOAD_SECONDS, megabytes=LOAD_MB)
        except child.Refused as error:
            raise ffn.CheckpointError(str(error).replace(str(path), path.name)) from None
        except (TimeoutError, MemoryError):
            raise ffn.CheckpointError(f"{path.name} describes a network too large to be loaded here") from None
        except ChildProcessError:
            raise ffn.CheckpointError(f"{path.name} cannot be read") from None
        entry = _entry(path.name, path)
        if entry is None:
            raise ffn.CheckpointError(
                f"{path.name} holds a network of your own, which only your code can build"
            )
        if entry.preprocess.resize > MOST_PIXELS:
            raise ffn.CheckpointError(
                f"{path.name} wants frames of {entry.preprocess.resize} pixels; at most {MOST_PIXELS} are given"
            )
        return replace(entry, name=f"{UPLOADED}{path.name}")


def convert(path: Path) -> None:
    """Read a checkpoint completely, and put a released one into our form. CheckpointError if it is unusable."""
    try:
        ffn.load(path)
    except ffn.CheckpointError:
        if path.suffix.lower() not in PICKLES:
            raise
        ffn.save(ffn.load_released(path), path)  # in its place, so that both go when the upload does


def _entry(name: str, path: Path) -> Entry | None:
    """What the header says; None for files that are no checkpoint of a registered network."""
    try:
        return _read_entry(name, path, path.stat().st_mtime_ns)
    except (ffn.CheckpointError, OSError, KeyError, TypeError, ValueError):
        return None


@lru_cache(1000)
def _read_entry(name: str, path: Path, _changed: int) -> Entry:
    spec = json.loads(read_metadata(path)["spec"])
    return Entry(
        name,
        path,
        spec["name"],
        tuple(spec["frames"]),
        spec["flexible"],
        tuple(spec["classes"]) if spec["classes"] else spec["num_classes"],
        Preprocess(**spec["preprocess"]),
    )
