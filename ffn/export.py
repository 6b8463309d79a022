"""A network for one frame count as a file of ONNX or of torch.export, checked before it is left in place."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ffn.checkpoint import write_atomically
from ffn.flexible import FrameFlexible, unwrapped
from ffn.fold import fold
from ffn.preprocess import Preprocess
from ffn.registry import spec_of

TOLERANCE = 1e-4  # relative to the largest logit
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
METADATA = "metadata.json"  # its name among the extra files of a .pt2


class ExportError(ValueError):
    """A network that cannot be exported, or whose export computes something else; no file is left."""


def export(
    model: nn.Module,
    out: str | Path,
    frames: int,
    format: str = "onnx",
    size: int | None = None,
    tolerance: float = TOLERANCE,
) -> dict:
    """Write the network that serves ``frames`` frames to ``out``; returns the metadata written with it.

    The file takes ``clip``, a float32 ``(B, 3, frames, size, size)`` of any B, normalised as the metadata's
    ``preprocess`` says, and returns ``logits`` ``(B, num_classes)``. Norms and weight alterations are folded.

    Args:
        model: frame-flexible or plain; it is left as it is.
        out: takes its place only once it was read back and agreed with ``model`` on random clips, one and
            three at a time.
        format: ``onnx`` (metadata: JSON values by name) or ``torch`` (for ``torch.export.load``; metadata:
            the extra file ``metadata.json``).
        size: of a clip's frames, in pixels; by default what ``model`` is fed with.
        tolerance: how far logits may be from the model's, relative to the largest.

    Raises:
        ValueError: if frame count, size or format cannot be, or a package that ONNX needs is missing.
        ExportError: if the network cannot be exported, or its export computes something else.
    """
    _check(frames, size, format)
    model = unwrapped(model)
    spec = spec_of(model)
    preprocess = spec.preprocess if spec else Preprocess()
    size = size or preprocess.size
    flexible = isinstance(model, FrameFlexible)
    network = copy.deepcopy(model.branch(frames) if flexible else model).to("cpu", torch.float32).eval()
    metadata = {
        "network": spec.name if spec else type(model).__name__,
        "frames": frames,
        "size": size,
        "frequency": model.frequency_for(frames) if flexible else None,
        "classes": spec.classes if spec else None,
        "preprocess": asdict(preprocess),
    }
    write, read = FORMATS[format]
    shape = (3, frames, size, size)

    def write_checked(partial: Path) -> None:
        try:
            with _quiet():
                example = torch.zeros(2, *shape)  # one clip would be taken for a batch that is always 1
                batch = ({0: torch.export.Dim("batch")},)
                write(torch.export.export(fold(network), (example,), dynamic_shapes=batch), partial, metadata)
            run = read(partial)
            worst = max(_difference(run, network, torch.randn(count, *shape)) for count in (1, 3))
        except OSError:
            raise
        except Exception as error:  # the exporters' own errors have no common class
            raise ExportError(
                f"{metadata['network']} cannot be exported as {format}: {_first_sentence(error)}"
            ) from error
        if not worst <= tolerance:
            raise ExportError(
                f"the exported {metadata['network']} was off by {worst:.1e} of the largest logit, more than "
                f"{tolerance:g}, and was not kept"
            )

    write_atomically(out, write_checked)
    return metadata


def _check(frames: int, size: int | None, format: str) -> None:
    if frames < 1:
        raise ValueError(f"a clip needs at least 1 frame, not {frames}")
    if size is not None and size < 1:
        raise ValueError(f"frames need at least 1 pixel, not {size}")
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}")
    missing = [name for name in ONNX_PACKAGES if format == "onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"writing ONNX needs {' and '.join(missing)}: pip install 'frame-flexible-network[export]'"
        )


@torch.inference_mode()
def _difference(run: Callable[[Tensor], Tensor], network: nn.Module, clip: Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    expected = network(clip)
    return ((run(clip) - expected).abs().max() / expected.abs().max()).item()


def _write_onnx(program: torch.export.ExportedProgram, path: Path, metadata: dict) -> None:
    names = {"input_names": ["clip"], "output_names": ["logits"], "dynamic_shapes": ({0: "batch"},)}
    onnx_program = torch.onnx.export(program, dynamo=True, verbose=False, **names)
    onnx_program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    onnx_program.save(path, external_data=False)


def _read_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda clip: torch.from_numpy(session.run(["logits"], {"clip": clip.numpy()})[0])


def _write_torch(program: torch.export.ExportedProgram, path: Path, metadata: dict) -> None:
    buffer = io.BytesIO()  # given a path, PyTorch insists on a suffix
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    path.write_bytes(buffer.getvalue())


def _read_torch(path: Path) -> Callable[[Tensor], Tensor]:
    return torch.export.load(io.BytesIO(path.read_bytes())).module()


FORMATS = {"onnx": (_write_onnx, _read_onnx), "torch": (_write_torch, _read_torch)}


@contextmanager
def _quiet():
    """Exporters warn, log and print by the page of what we say in a sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
