"""The clips that visitors uploaded: decoded in a child process, and kept for a while."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from cachetools import LRUCache, cached

from app import child
from app.settings import Settings
from ffn.video import Limits, LoadedClip, VideoError, open_video, preload

COUNTS = range(1, 33)  # the frame counts a visitor can choose
THUMBNAIL = 160  # pixels of a kept frame's short side, if the network needs fewer


@dataclass(frozen=True)
class Cut:
    """Which frames are taken of a file, and how large: of a segment in seconds, under a sampling rule."""

    start: float = 0
    end: float | None = None
    rule: str = "segment"
    short_side: int = THUMBNAIL


class Clips:
    """Decoded clips by the content of their file; the least recently used make room.

    Threads may share one: of two that ask for the same new clip at once, one waits for the other.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self.kept = LRUCache(settings.clip_cache_mb * 2**20, getsizeof=lambda clip: clip.frames.nbytes)
        self._get = cached(
            self.kept, key=lambda digest, cut, path: (digest, cut), condition=threading.Condition()
        )(self._decode)

    def get(self, path: str | Path, cut: Cut) -> LoadedClip:
        """The clip cut from the video file ``path``; VideoError, with one sentence, if it cannot be."""
        path = Path(path)
        if not path.is_file():
            raise VideoError(f"{path.name} is not here any longer: upload it again")
        return self._get(_digest(path), cut, path)

    def _decode(self, _digest: str, cut: Cut, path: Path) -> LoadedClip:
        seconds, megabytes = self._settings.max_decode_seconds, self._settings.max_decode_mb
        try:
            return child.run(decode, path, cut, self._settings.limits, seconds=seconds, megabytes=megabytes)
        except child.Refused as error:
            raise VideoError(str(error)) from None
        except TimeoutError:
            reason = f"takes longer than {seconds:g} seconds to decode: shorten it or record it smaller"
        except MemoryError:
            reason = f"takes more than {megabytes:g} MB of memory to decode: record it at a lower resolution"
        except ChildProcessError:
            reason = "is damaged: the decoder gave up on it"
        raise VideoError(f"{path.name} {reason}")


def decode(path: Path, cut: Cut, limits: Limits) -> LoadedClip:
    """What a child process does with a file."""
    return preload(open_video(path, limits), COUNTS, cut.rule, cut.short_side, cut.start, cut.end)


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
