"""Starting points for training: weights that others trained, copied into a network and every private norm.

The layout of a file is recognised from the names of its tensors, and a layout is data: a table of patterns
from its names to ours. What has no counterpart is left as it was, and the report says so.
"""

from __future__ import annotations

import _codecs
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_weight

from ffn.alteration import Altered, WeightAlteration
from ffn.backbones.efficientnet import imagenet_file
from ffn.backbones.per_frame import PerFrame
from ffn.checkpoint import CheckpointError
from ffn.download import fetch
from ffn.flexible import FrameFlexible
from ffn.released import read_pickle, translate, unwrap

# What each network is trained from, in the paper if it is there, by a name people use: a weight of torchvision,
# a URL, or a function that finds the file.
STARTS = {
    "tsm_efficientnet_lite0": {"imagenet": imagenet_file},
    "tsm_resnet18": {"imagenet": "ResNet18_Weights.IMAGENET1K_V1"},
    "tsm_resnet50": {"imagenet": "ResNet50_Weights.IMAGENET1K_V1"},
    "tsm_resnet101": {"imagenet": "ResNet101_Weights.IMAGENET1K_V1"},
    "tea_resnet50": {
        "imagenet": "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-res2net/"
        "res2net50_26w_4s-06e79181.pth"
    },
    "slowfast_resnet50": {
        "kinetics400": "https://dl.fbaipublicfiles.com/pyslowfast/model_zoo/kinetics400/SLOWFAST_8x8_R50.pkl"
    },
    "uniformer_small": {  # 16 frames, every 4th one
        "kinetics400": "https://drive.google.com/file/d/1-jGZIIuTM5IYIpqkNTojhGhfMc7Gu9Kt/view",
        "kinetics600": "https://drive.google.com/file/d/1-dqzjm5RZVspWHQLRD4S1vo4_6jyVltb/view",
    },
}


@dataclass(frozen=True)
class Layout:
    """Whose names a file bears: ``mark`` is found in one of them, ``rules`` make them ours, in this order."""

    name: str
    mark: str
    rules: tuple[tuple[str, str], ...] | None = None  # None: as released, see ffn.released
    other: str = r"(?!)"  # names of what is no weight


LAYOUTS = (
    Layout(
        "PyTorchVideo's SlowFast",
        r"\.multipathway_blocks\.",
        (
            (r"^(module\.|model\.)+", ""),
            *((rf"^blocks\.{i}\.", f"s{i + 1}.") for i in range(5)),
            (r"^blocks\.6\.proj\.", "head.projection."),
            (r"^(s\d)\.multipathway_fusion\.conv_fast_to_slow\.", r"\1_fuse.conv_f2s."),
            (r"^(s\d)\.multipathway_fusion\.norm\.", r"\1_fuse.bn."),
            (r"^s1\.multipathway_blocks\.(\d)\.conv\.", r"s1.pathway\1_stem.conv."),
            (r"^s1\.multipathway_blocks\.(\d)\.norm\.", r"s1.pathway\1_stem.bn."),
            (r"\.multipathway_blocks\.(\d)\.res_blocks\.(\d+)\.", r".pathway\1_res\2."),
            (r"\.branch1_conv\.", ".branch1."),
            (r"\.branch1_norm\.", ".branch1_bn."),
            (r"\.conv_([abc])\.", r".\1."),
            (r"\.norm_([abc])\.", r".\1_bn."),
        ),
    ),
    Layout(  # t_ is the fast pathway
        "PySlowFast's SlowFast, in Caffe2's form",
        r"^t_res2_0_branch2a_w$",
        (
            (r"^(t_)?res_conv1_bn_", r"\1s1_stem.bn_"),
            (r"^(t_)?conv1_", r"\1s1_stem.conv_"),
            (r"^t_(pool|res)(\d)(_\d+_branch2c_bn)?_subsample_bn_", r"s\2_fuse.bn_"),
            (r"^t_(pool|res)(\d)(_\d+_branch2c_bn)?_subsample_", r"s\2_fuse.conv_f2s_"),
            (r"^(t_)?res(\d)_(\d+)_branch2([abc])_", r"\1s\2_res\3.branch2.\4_"),
            (r"^(t_)?res(\d)_(\d+)_branch1_", r"\1s\2_res\3.branch1_"),
            (r"^t_s(\d)_", r"s\1.pathway1_"),
            (r"^s(\d)_(?=stem|res)", r"s\1.pathway0_"),
            (r"^pred_", "head.projection_"),
            (r"bn_b$", "bn.bias"),
            (r"bn_s$", "bn.weight"),
            (r"bn_rm$", "bn.running_mean"),
            (r"bn_riv$", "bn.running_var"),
            (r"_w$", ".weight"),
            (r"_b$", ".bias"),
        ),
        other=r"_momentum$|^lr$|^model_iter$",
    ),
    Layout("a frame-flexible network of ours", r"^branches\.\d+\."),
    Layout("TEA", r"layer1\.0\.me\."),
    Layout("Res2Net", r"layer1\.0\.convs\."),
    Layout("ResNet or TSM", r"layer1\.0\.conv1\."),
    Layout("SlowFast", r"s1\.pathway1_stem\."),
    Layout("UniFormer", r"patch_embed1\.proj\."),
)
OWN = Layout("the network's own names", "")

# Tensors of ours that a file may lack, and why that is well.
INITIALISED = (
    (r"\.shifts\.\d\.", "temporal convolutions: an image network has none, they start as identity and shift"),
    (r"\.me\.", "motion excitation: an image network has none"),
    (r"(^|\.)num_batches_tracked$", "counters that nothing depends on"),
)
NO_ALTERATION = "weight alterations: the file has none, they start near zero"
# And why a tensor of a file may be left.
LOWER = "of a lower frequency"
ALTERATION = "the network has no weight alterations"
NO_WEIGHT = "of the optimiser"
NO_COUNTERPART = "no counterpart in the network"


@dataclass
class Report:
    """What :func:`load_pretrained` did; tensors of the network are named as within one branch.

    ``loaded`` maps a tensor of the network to its name in the file; those ``inflated`` were images' and got
    a time axis. ``skipped`` says of a name in the file, ``initialised`` of one in the network, why it was
    left out. ``str()`` is a short table.
    """

    source: str
    layout: str
    loaded: dict[str, str] = field(default_factory=dict)
    inflated: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    initialised: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"starting point: {self.source} ({self.layout})", _line("loaded", self.loaded)]
        if self.inflated:
            lines.append(_line("inflated", self.inflated, "of these, given a time axis"))
        for title, reasons in (("skipped", self.skipped), ("initialised", self.initialised)):
            for reason in dict.fromkeys(reasons.values()):
                lines.append(_line(title, [name for name in reasons if reasons[name] == reason], reason))
        return "\n".join(lines)


def _line(title: str, names: Iterable[str], reason: str = "") -> str:
    names = list(names)
    example = f"{names[0]}, ..." if len(names) > 1 else "".join(names)
    return f"  {title:<12}{len(names):>5}  {reason or example}{f' ({example})' if reason else ''}"


def load_pretrained(model: nn.Module, source: str | Path | Mapping) -> Report:
    """Fill a network, or every branch of a FrameFlexible, with weights to start training from.

    Args:
        model: stays in its mode. What branches share is filled once, and every private norm with the
            same values, as the paper starts. A classifier for another number of classes stays as it is.
        source: a file (of PyTorch, Caffe2 or safetensors), a state dict, the name of a weight of torchvision
            (``ResNet50_Weights.IMAGENET1K_V2``), or a name in ``STARTS``, such as ``imagenet``. For TSM: a
            ResNet of torchvision or timm, TSM's own repository; for TEA: Res2Net-50 26w x 4s of its
            authors or timm; for SlowFast: the 8x8 R50 of PySlowFast or PyTorchVideo; for UniFormer: its
            authors' image or video networks. For all, and for any other network: a plain checkpoint
            under its own names, released or saved by us; of a frame-flexible one, the highest frequency.

    Raises:
        CheckpointError: if the file is missing, damaged or of another network, or cannot be downloaded;
            ``model`` is untouched then.
    """
    branches = list(model.branches.values()) if isinstance(model, FrameFlexible) else [model]
    where, tensors = _open(model, source)
    values, report = _match(branches[-1], tensors, where)
    with torch.no_grad():
        for branch in branches:
            state = branch.state_dict(keep_vars=True)
            for name, value in values.items():
                state[name].copy_(value)
    return report


def _match(network: nn.Module, tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], Report]:
    """The file's tensors by their names in ``network`` and in its shapes, and the report."""
    target, head, classes = network.state_dict(), _head(network), None
    layout = next((x for x in LAYOUTS if any(re.search(x.mark, name) for name in tensors)), OWN)
    report = Report(where, layout.name)
    values, misfits = {}, {}
    for ours, name in _translated(tensors, layout, _names(network), report).items():
        value = _fitted(tensors[name], target[ours])
        if value is None:
            misfits[ours] = name
            continue
        values[ours], report.loaded[ours] = value, name
        if tensors[name].dim() < value.dim():
            report.inflated.append(ours)
    layers = {ours.rpartition(".")[0] for ours in misfits}
    if len(layers) == 1 and all(tensors[misfits[o]].shape[1:] == target[o].shape[1:] for o in misfits):
        # A layer alone that differs in its number of outputs can only be the classifier.
        head, classes, misfits = layers.pop(), len(tensors[next(iter(misfits.values()))]), {}
    if misfits:
        ours, name = next(iter(misfits.items()))
        more = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
        raise CheckpointError(
            f"{where} ({layout.name}) does not fit the network: {name} is {tuple(tensors[name].shape)} in the "
            f"file and {tuple(target[ours].shape)} in the network{more}"
        )
    _account(network, head, classes, report)
    return values, report


def _translated(
    tensors: Mapping[str, Tensor], layout: Layout, names: Mapping[str, str], report: Report
) -> dict[str, str]:
    """For each tensor of the network its name in the file; the rest goes to the report as skipped."""
    places = {}
    for name in tensors:
        bare = re.sub(
            r"^(module\.|_orig_mod\.)+", "", name
        )  # without DataParallel's and torch.compile's wrapper
        own = next((known for known in (name, bare) if known in names), None)
        places[name] = (own, -1) if own else _ours(bare, layout)
    found = {}
    for name in sorted(tensors, key=lambda name: places[name][1]):  # the highest frequency comes last
        ours = places[name][0]
        if ours in names:
            ours = names[ours]
            if ours in found:
                report.skipped[found[ours]] = LOWER
            found[ours] = name
        elif re.search(layout.other, name):
            report.skipped[name] = NO_WEIGHT
        else:
            report.skipped[name] = ALTERATION if ours.endswith("alteration.weight") else NO_COUNTERPART
    return found


def _names(network: nn.Module) -> dict[str, str]:
    """Each tensor's name in ``network`` by that name, and by what it was before we wrapped its layer."""
    names = {}
    wrapped = [name for name, module in network.named_modules() if isinstance(module, Altered)]
    for name in network.state_dict():
        before = name
        for layer in reversed(wrapped):  # from the inside out
            before = re.sub(rf"^{re.escape(layer)}\.layer\.", f"{layer}.", before)
        if isinstance(network, PerFrame):
            before = before.removeprefix("network.")
            before = re.sub(r"_(conv_stem|depthwise_conv)\.1\.", r"_\1.", before)  # EfficientNet's padded ones
        names |= {name: name, before: name}
    return names


def _ours(name: str, layout: Layout) -> tuple[str, int]:
    """Our name within one branch, and the frequency that it is of: the higher, the greater; -1 for all."""
    if branch := re.match(r"branches\.(\d+)\.", name):
        return name[branch.end() :], int(branch[1])
    if layout.rules is None:
        name, level = translate(name)
        return name, -1 if level is None else level
    for pattern, replacement in layout.rules:
        name = re.sub(pattern, replacement, name)
    return name, -1


def _fitted(tensor: Tensor, target: Tensor) -> Tensor | None:
    """``tensor`` in the shape of ``target``, if it is that but for axes of length 1 or for time."""
    if tensor.shape == target.shape:
        return tensor
    if [n for n in tensor.shape if n != 1] == [n for n in target.shape if n != 1]:
        return tensor.reshape(target.shape)
    if tensor.dim() == 4 and target.dim() == 5 and tensor.shape == (*target.shape[:2], *target.shape[3:]):
        # As UniFormer's and PySlowFast's authors do: a still clip then gives what the image gave.
        return tensor.unsqueeze(2).expand(target.shape) / target.shape[2]
    return None


def _head(network: nn.Module) -> str:
    """The name of the classifier: the last layer with a matrix or a kernel for its weight."""
    weights = {name: getattr(module, "weight", None) for name, module in network.named_modules()}
    layers = [name for name, weight in weights.items() if isinstance(weight, Tensor) and weight.dim() > 1]
    return layers[-1] if layers else ""


def _account(network: nn.Module, head: str, classes: int | None, report: Report) -> None:
    """Report why tensors of the network were not loaded.

    Raises:
        CheckpointError: if there is no good reason.
    """
    target = network.state_dict()
    alterations = {name for name, m in network.named_modules() if isinstance(m, WeightAlteration)}
    lacking = []
    for name in target.keys() - report.loaded.keys():
        if name.startswith(f"{head}."):
            ours = len(target[f"{head}.weight"])
            reason = f"head replaced: the file has {classes or 'no'} classes, the network {ours}"
        elif name.rpartition(".")[0] in alterations:
            reason = NO_ALTERATION
        else:
            reason = next((why for pattern, why in INITIALISED if re.search(pattern, name)), None)
        if reason is None:
            lacking.append(name)
        else:
            report.initialised[name] = reason
    report.initialised = {name: report.initialised[name] for name in target if name in report.initialised}
    if all(re.search(r"num_batches_tracked$", name) for name in report.loaded):
        example = next(iter(report.skipped), "nothing")
        raise CheckpointError(
            f"{report.source} matches nothing in the network: it holds {example}, where the network has "
            f"{next(iter(target))}"
        )
    if lacking:
        raise CheckpointError(
            f"{report.source} ({report.layout}) is not of this network: it lacks {len(lacking)} of its "
            f"tensors, such as {min(lacking)}"
        )


# Where the weights come from


def _open(model: nn.Module, source: str | Path | Mapping) -> tuple[str, Mapping[str, Tensor]]:
    """What errors and the report call the source, and its tensors."""
    if isinstance(source, Mapping):
        return "the state dict", unwrap(source, "the state dict")
    path = Path(source)
    if isinstance(source, str) and not path.is_file():  # there may be a folder of that name
        path = _by_name(model, source) or path
    if path.suffix == ".safetensors":
        return path.name, _read_safetensors(path)
    contents = _read_caffe2(path) if _is_bare_pickle(path) else read_pickle(path)
    return path.name, unwrap(contents, path)


def _by_name(model: nn.Module, name: str) -> Path | None:
    """The file of a starting point in ``STARTS`` or of torchvision, downloaded if need be; None if not one."""
    network = getattr(getattr(model, "spec", None), "name", "")
    starts = STARTS.get(network, {})
    location = name if re.fullmatch(r"\w+_Weights\.\w+", name) else starts.get(name)
    if location is None:
        if re.fullmatch(r"\w+", name):  # no file is named like that
            known = f"one of {', '.join(starts)}, or a file" if starts else "a file"
            raise CheckpointError(f"there is no starting point {name!r} for this network: give {known}")
        return None
    if callable(location):
        return location()
    if "://" not in location:
        try:
            location = get_weight(location).url
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"torchvision has no weights {location}") from error
    file = f"{network}_{name}.pth" if "drive.google.com" in location else location.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file  # where torchvision and timm keep theirs
    try:
        return fetch(location, path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}, or pass the file instead of {name!r}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error


def _is_bare_pickle(path: Path) -> bool:
    """Whether a .pkl file is not of PyTorch, whose files begin as an archive or with a magic number."""
    if path.suffix != ".pkl" or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(32)
    return not start.startswith(b"PK") and torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") not in start


# What an array is made of in a pickle. Where numpy keeps its makers varies, so ask an array for them.
ARRAYS = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "numpy.core.multiarray._reconstruct": np.zeros(0).__reduce__()[0],
    "numpy.core.multiarray.scalar": np.float32(0).__reduce__()[0],
    "_codecs.encode": _codecs.encode,  # how Python 3 writes bytes for Python 2
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays in plain containers and refuses all else, so that it executes nothing."""

    def find_class(self, module: str, name: str) -> object:
        known = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if known not in ARRAYS:
            raise pickle.UnpicklingError(f"it holds {known}")
        return ARRAYS[known]


def _read_caffe2(path: Path) -> dict[str, Tensor]:
    """The blobs of a Caffe2 checkpoint, which is a pickle of numpy arrays written by Python 2."""
    try:
        with path.open("rb") as file:
            blobs = _ArrayUnpickler(file, encoding="latin1").load()["blobs"]
        return {name: torch.from_numpy(np.array(blob)) for name, blob in blobs.items()}
    except Exception as error:  # what unpickling raises on damage can be anything
        why = f" ({error})" if isinstance(error, pickle.UnpicklingError) else ""
        raise CheckpointError(f"{path} is damaged or no Caffe2 checkpoint of plain arrays{why}") from error
