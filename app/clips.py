"""The clips that visitors uploaded, decoded once and kept for a while."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

from cachetools import LRUCache

from ffn.video import LoadedClip


class Clips:
    """Loaded clips by the content of their file; the least recently used make room beyond ``max_bytes``.

    ``load`` decodes a file. Threads may share one: two that ask for the same new clip at once both decode it.
    """

    def __init__(self, load: Callable[[Path], LoadedClip], max_bytes: int = 512 * 2**20):
        self._load = load
        self._clips = LRUCache(max_bytes, getsizeof=lambda clip: clip.frames.nbytes)
        self._lock = threading.Lock()

    def add(self, path: str | Path) -> str:
        """The key of the clip in ``path``, decoded unless it is here already; VideoError if it cannot be."""
        key = _digest(Path(path))
        self.get(key, path)
        return key

    def get(self, key: str, path: str | Path) -> LoadedClip:
        """The clip under ``key``, decoded again from ``path`` if it had to make room."""
        with self._lock:
            clip = self._clips.get(key)
        if clip is None:
            clip = self._load(Path(path))
            with self._lock:
                if clip.frames.nbytes <= self._clips.maxsize:
                    self._clips[key] = clip
        return clip


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
