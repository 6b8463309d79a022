"""The released checkpoints by name: fetched, verified and converted once, then read from a folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ffn.checkpoint import CheckpointError, read_metadata, save
from ffn.released import load_released


@dataclass(frozen=True)
class Released:
    """A file that the authors released on Google Drive: of which network, for how many classes."""

    network: str
    num_classes: int
    drive: str

    @property
    def url(self) -> str:
        """Opens in a browser too."""
        return f"https://drive.google.com/file/d/{self.drive}/view"

    @property
    def suffix(self) -> str:
        return ".pth.tar" if self.network.startswith(("tsm", "tea")) else ".pyth"


RELEASED = {
    "tsm-ssv1": Released("tsm_resnet50", 174, "1CVXl_qKiTB8iaqz4UyErxdNpG2XwZlPH"),
    "tsm-ffn-ssv1": Released("tsm_resnet50", 174, "1_UhRmFoed58XPTqs8evqZspYEGLNWYdv"),
    "tea-ssv1": Released("tea_resnet50", 174, "1pfOgZXR5N5hRy14Ub7FyzBq-BIWFWnBO"),
    "tea-ffn-ssv1": Released("tea_resnet50", 174, "1svAKVJRIEL0bRsgVP9ZOx6n-Yd5tKaYt"),
    "slowfast-ssv1": Released("slowfast_resnet50", 174, "1WW6nirUmVK7AL9EmlkDw8eOWG4wSJlds"),
    "slowfast-ffn-ssv1": Released("slowfast_resnet50", 174, "17zZ_tyAPNx9mz_qu0whhhjlqalElVexS"),
    "uniformer-ssv1": Released("uniformer_small", 174, "1r68Z9iUUQDcrpZYdq7kYGd7jflStjD0t"),
    "uniformer-ffn-ssv1": Released("uniformer_small", 174, "1ZlBBEgMA5CJsJCbVfht9ytqY-oD7jEEo"),
    "tsm-ssv2": Released("tsm_resnet50", 174, "1S8XQ66oUIp2PEGpD81j_Y-gq0cEV3VwF"),
    "tsm-ffn-ssv2": Released("tsm_resnet50", 174, "1lmKFR-5sO86A1ge7JkWzY0nXkE0it4wo"),
    "tsm-k400": Released("tsm_resnet50", 400, "1g9uyLpPyg0s3AOHsMNBM0G8MhhN1Nx41"),
    "tsm-ffn-k400": Released("tsm_resnet50", 400, "17SaTXHI_7bgw1-aT2mpE78rX44hHQ5EL"),
}


def cache_folder() -> Path:
    """Where downloads are kept: ``FFN_CACHE``, or else a folder beside what PyTorch downloads."""
    return Path(os.environ.get("FFN_CACHE") or Path(torch.hub.get_dir()).parent / "ffn")


def download(name: str, folder: str | Path | None = None) -> Path:
    """Fetch a released checkpoint by its name in ``RELEASED``; returns the file in our form.

    A file in our form that is there already is returned; a released one that was put there by hand, as
    ``<name>.pth.tar`` or ``<name>.pyth``, is used instead of a download. A download that was cut off goes
    on where it stopped. Progress goes to stderr.

    Args:
        folder: where files are kept, instead of :func:`cache_folder`.

    Raises:
        ValueError: if there is no such name.
        CheckpointError: if the file cannot be fetched or is not what the name says; tells what to do.
    """
    if name not in RELEASED:
        raise ValueError(f"there is no released checkpoint {name!r}; choose one of {', '.join(RELEASED)}")
    folder = Path(folder) if folder is not None else cache_folder()
    out, original = folder / f"{name}.safetensors", folder / f"{name}{RELEASED[name].suffix}"
    if _is_whole(out):
        return out
    by_hand = original.is_file()
    fetch(RELEASED[name].url, original)
    try:
        _save(_verified(name, original), out, original)
    except CheckpointError as error:
        if by_hand:
            raise CheckpointError(f"{error}: replace it by the file from {RELEASED[name].url}") from error
        original.unlink()  # the next call fetches it again
        raise CheckpointError(
            f"{error}: open {RELEASED[name].url} in a browser and save the file as {original}"
        ) from error
    if not by_hand:
        original.unlink()
    return out


def convert(
    source: str | Path | Mapping, out: str | Path, classes: str | Path | Iterable[str] | None = None
) -> Path:
    """Write a released checkpoint in our form (safetensors); returns ``out``.

    Args:
        source: a file or state dict as :func:`ffn.released.load_released` takes it.
        classes: the names of the classes, or a label file for :func:`read_labels`.

    Raises:
        CheckpointError: if the source cannot be read.
        ValueError: if there are not as many names as classes.
    """
    labels = read_labels(classes) if isinstance(classes, (str, Path)) else classes
    model = load_released(source)
    if labels is not None:
        labels = tuple(labels)
        if len(labels) != model.spec.num_classes:
            raise ValueError(
                f"{classes if isinstance(classes, (str, Path)) else 'the list'} names {len(labels)} classes "
                f"and the network has {model.spec.num_classes}: give the labels of its own data set"
            )
        model.spec = replace(model.spec, classes=labels)
    return _save(model, Path(out), source)


def _save(model: nn.Module, out: Path, source: object) -> Path:
    origin = "a state dict" if isinstance(source, Mapping) else Path(source).name
    save(model, out, converted_from=origin)
    return out


def _is_whole(path: Path) -> bool:
    """Whether a file of ours is there; one that was damaged since does not count."""
    try:
        return bool(read_metadata(path))
    except CheckpointError:
        return False


def _verified(name: str, path: Path) -> nn.Module:
    spec = (model := load_released(path)).spec
    expected = (RELEASED[name].network, RELEASED[name].num_classes, "-ffn-" in name)
    if (spec.name, spec.num_classes, spec.flexible) != expected:
        kind = "frame-flexible" if spec.flexible else "plain"
        raise CheckpointError(f"{path} is not {name} but a {kind} {spec.name} of {spec.num_classes} classes")
    return model


def fetch(url: str, path: Path) -> Path:
    """Download ``url``, of Google Drive or anywhere, to ``path`` unless that is there; returns ``path``.

    What a name like ``resnet50-0676ba61.pth`` says of the file's SHA-256 is verified.

    Raises:
        CheckpointError: if that fails; what has arrived is kept, and the next call goes on from there.
    """
    if path.is_file():
        return path
    import gdown  # here, because it takes long and is rarely needed
    from requests import HTTPError, RequestException

    by_hand = f"open {url} in a browser and save the file as {path}"
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        gdown.download(url, str(path), resume=True, retries=2, timeout=30, use_cookies=False, hasher=digest)
    except (HTTPError, gdown.exceptions.FileURLRetrievalError) as error:
        raise CheckpointError(f"{path.name} was refused by the server: {by_hand}") from error
    except (RequestException, gdown.exceptions.DownloadError) as error:
        raise CheckpointError(
            f"{path.name} was not downloaded, because the connection failed: try again, which goes on where "
            f"it stopped, or {by_hand}"
        ) from error
    promised = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if promised and not digest.hexdigest().startswith(promised[1]):
        path.unlink()
        raise CheckpointError(f"{path.name} arrived damaged: try again, or {by_hand}")
    return path


# Class names


def read_labels(path: str | Path) -> tuple[str, ...]:
    """The class names in a label file, in the order of the network's classes.

    Reads JSON (``{"name": "id"}`` as of Something-Something V2, ``{"id": "name"}``, or a list of names) and
    text with a class per line: ``id,name`` or ``name id`` (Kinetics), or the bare name. Ids count from 0
    or 1. Bare names keep their order, except in a ``.csv`` file: that is Something-Something V1's, in no
    order, and networks of that set number its classes alphabetically. The Kinetics-400 networks released
    here have an order of their own, which is in ``class_index.txt`` of the authors' repository.

    Raises:
        ValueError: if there is no such file, or no list of different names in it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"there is no label file {path}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no text in UTF-8: give a label file, JSON or a class name per line"
        ) from error
    names = _labels_from_json(text, path) if path.suffix == ".json" else _labels_from_lines(text, path)
    if not names:
        raise ValueError(f"{path} holds no class names")
    if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"{path} names {repeated[0]!r} more than once")
    return tuple(names)


def _labels_from_json(text: str, path: Path) -> list[str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [_unquoted(name) for name in content]
    if isinstance(content, dict):
        keys, values = [str(key) for key in content], [str(value) for value in content.values()]
        if ordered := _ordered(keys, values) or _ordered(values, keys):
            return ordered
    raise ValueError(f"{path} is neither a list of names nor names with ids that count them all")


def _labels_from_lines(text: str, path: Path) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for rows in (lines, lines[1:]):  # with and without a header
        for pattern in (r"(?P<id>\d+)[\s,;]+(?P<name>.+)", r"(?P<name>.+?)[\s,;]+(?P<id>\d+)"):
            matches = [re.fullmatch(pattern, row) for row in rows]
            if all(matches) and (ordered := _ordered([m["id"] for m in matches], [m["name"] for m in matches])):
                return ordered
    names = [_unquoted(line) for line in lines]
    return sorted(names) if path.suffix == ".csv" else names


def _ordered(ids: list[str], names: list[str]) -> list[str] | None:
    """``names`` by their ids, if these count from 0 or 1 without a gap."""
    if not all(re.fullmatch(r"[0-9]+", i) for i in ids) or len(set(names)) == 1 < len(names):
        return None  # not "gesture 1", "gesture 2" either
    by_id = sorted(zip(map(int, ids), map(_unquoted, names), strict=True))
    if [i for i, _ in by_id] not in (list(range(len(ids))), list(range(1, len(ids) + 1))):
        return None
    return [name for _, name in by_id]


def _unquoted(name: str) -> str:
    return name.strip().strip('"').strip()
