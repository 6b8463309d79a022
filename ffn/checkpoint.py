"""Our checkpoints: one safetensors file with each tensor once and the network's spec as metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from ffn.flexible import unwrapped
from ffn.preprocess import Preprocess
from ffn.registry import Spec, spec_of


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what to do."""


def save(model: nn.Module, path: str | Path, *, dtype: torch.dtype | None = None, **notes: str) -> None:
    """Write ``model`` to ``path`` (safetensors), atomically.

    A tensor that branches share is written once, under the name it has in the first branch. A network
    within torch.compile, DataParallel or DistributedDataParallel is taken out of it.
    ``dtype`` (torch.float16, say) stores floating-point tensors smaller, norms' statistics included, but
    for those with values beyond its range.
    ``notes`` are kept as metadata for people to read. A network without a ``spec`` (one of the user's
    own) is saved too; load it with ``load(path, model=...)``.
    """
    model, tensors = unwrapped(model), {}
    for name, tensor in unique_tensors(model).items():
        tensors[name] = _smaller(tensor.detach().cpu(), dtype).contiguous()
    spec = spec_of(model)
    metadata = {key: str(value) for key, value in notes.items()} | {"format": "ffn"}
    if spec is not None:
        metadata["spec"] = json.dumps(asdict(spec))
    write_atomically(path, lambda partial: partial.write_bytes(serialise(tensors, metadata)))


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place: all of it or nothing."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Read a network from ``path``, in evaluation mode on the CPU.

    ``model`` is filled if given; otherwise the network is built from the file's own spec.

    Raises:
        CheckpointError: if the file is missing, not ours, or does not fit ``model``.
    """
    tensors, metadata = _read(Path(path))
    if model is None:
        model = _spec(metadata, path).build()
    return fill(model, tensors, path)


def fill(
    model: nn.Module, tensors: dict[str, Tensor], source: object, names: dict[str, str] | None = None
) -> nn.Module:
    """Copy ``tensors``, named as in :func:`unique_tensors`, into ``model``; returns it in evaluation mode.

    ``source`` says in errors where the tensors come from, ``names`` what they are called there.

    Raises:
        CheckpointError: if a tensor is missing, left over or of another shape; ``model`` is untouched then.
    """
    target = unique_tensors(model)
    if misfits := sorted(_misfits(tensors, target, names or {})):
        more = f" (and {len(misfits) - 3} more)" if len(misfits) > 3 else ""
        raise CheckpointError(f"{source} does not fit the network: {'; '.join(misfits[:3])}{more}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            target[name].copy_(tensor)
    return model.eval()


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a checkpoint: ``format``, ``spec`` (JSON) and the notes it was saved with."""
    return _read(Path(path), tensors=False)[1]


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer once, under the first name that leads to it."""
    seen, tensors = set(), {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor
    return tensors


def _smaller(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    return cast if torch.equal(cast.isfinite(), tensor.isfinite()) else tensor


def _misfits(tensors: dict[str, Tensor], target: dict[str, Tensor], names: dict[str, str]) -> Iterator[str]:
    for name in target.keys() - tensors.keys():
        yield f"{name} is missing from the file"
    for name in tensors.keys() - target.keys():
        yield f"{names.get(name, name)} is not in the network"
    for name in target.keys() & tensors.keys():
        have, want = tuple(tensors[name].shape), tuple(target[name].shape)
        if have != want:
            yield f"{names.get(name, name)} is {have} in the file and {want} in the network"


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, "pt") as file:
            values = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    if metadata.get("format") != "ffn":
        raise CheckpointError(f"{path} is a safetensors file, but not one that ffn.save wrote")
    return values, metadata


def _spec(metadata: dict[str, str], path: str | Path) -> Spec:
    if "spec" not in metadata:
        raise CheckpointError(f"{path} holds a network of your own: load it with load(path, model=...)")
    try:
        fields = json.loads(metadata["spec"])
        preprocess = fields["preprocess"]
        fields["preprocess"] = Preprocess(
            **preprocess | {"mean": tuple(preprocess["mean"]), "std": tuple(preprocess["std"])}
        )
        fields["frames"] = tuple(fields["frames"])
        fields["classes"] = fields["classes"] and tuple(fields["classes"])
        return Spec(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} says of its network what cannot be: {error}") from error
