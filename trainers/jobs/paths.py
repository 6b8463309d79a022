"""Where runs and data may lie. A path that came from a form or from the database is checked here."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def runs() -> Path:
    """The folder of all runs, as it was named: ``FFN_RUNS``, or ``runs`` where the command was started."""
    return Path(os.environ.get("FFN_RUNS") or "runs").expanduser()


def runs_folder() -> Path:
    """The same as an absolute path."""
    return runs().resolve()


def data_folders() -> tuple[Path, ...]:
    """The folders data sets may lie in: ``FFN_DATA``, separated by colons, or ``data``."""
    listed = [part for part in os.environ.get("FFN_DATA", "").split(os.pathsep) if part] or ["data"]
    return tuple(Path(part).expanduser().resolve() for part in listed)


def confine(path: str | os.PathLike, allowed: Path | Iterable[Path], *, itself: bool = False) -> Path:
    """``path`` as an absolute one, links followed, inside one of the ``allowed`` folders (or one ``itself``).

    A relative path starts at the first of them.

    Raises:
        ValueError: if it leads elsewhere, through ``..`` or a link too.
    """
    folders = [Path(folder).resolve() for folder in ([allowed] if isinstance(allowed, Path) else allowed)]
    if "\0" in str(path):
        raise ValueError("a path cannot hold a null character")
    resolved = (folders[0] / Path(path)).resolve()
    if not any(folder in resolved.parents or (itself and folder == resolved) for folder in folders):
        raise ValueError(f"{path} is not inside {' or '.join(map(str, folders))}; choose a folder there")
    return resolved
