"""The released checkpoints: files of the Frame Flexible Network's authors and of the networks it builds on.

Their tensors are those of our networks under other names, and a frequency is a suffix there: ``bn1_4``
in the file is ``bn1`` in our branch of the lowest frequency. The files are pickles; nothing in them is
executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ffn.checkpoint import CheckpointError, fill, load
from ffn.flexible import FrameFlexible
from ffn.registry import create_backbone, create_model

WRAPPERS = ("state_dict", "model_state", "model")  # where files keep the weights: of 2D, 3D and image networks
SUFFIXES = ("4", "8", "16")  # L, M and H, whatever their counts: SlowFast's _4 is 16 frames

# From released names (without the suffix) to ours. The rest of a name is the same here and there.
RULES = [
    (r"^module\.", ""),  # of nn.DataParallel
    (r"^base_model\.", ""),  # TSM and TEA
    (r"^new_fc\.", "fc."),
    (r"\.net\.", "."),  # TSM's own repository: the convolution that follows a shift
    (r"\.shifts\.(\d)\.conv\.", r".shifts.\1."),  # TEA
    (r"\.downsample_conv\.", ".downsample.0."),  # frame-flexible TSM and TEA
    (r"\.downsample_bn\.", ".downsample.1."),
    (r"\.adaconv\.", ".alteration."),
]

# A weight (by our name) that tells the network, its classifier, and its name; the first that is there counts.
NETWORKS = [
    ("layer1.0.me.conv1.weight", "fc.weight", "tea_resnet50"),
    ("layer3.22.conv3.weight", "fc.weight", "tsm_resnet101"),
    ("layer1.0.conv3.weight", "fc.weight", "tsm_resnet50"),
    ("layer1.0.conv2.weight", "fc.weight", "tsm_resnet18"),
    ("s1.pathway1_stem.conv.weight", "head.projection.weight", "slowfast_resnet50"),
    ("patch_embed1.proj.weight", "head.weight", "uniformer_small"),
]


def load_released(source: str | Path | Mapping, model: nn.Module | None = None) -> nn.Module:
    """Read a network, in evaluation mode on the CPU, from a released checkpoint.

    Args:
        source: a file, or what it holds: a state dict, bare or within the training state, of TSM (ResNet-18,
            50 or 101), TEA, SlowFast or UniFormer, frame-flexible or plain.
        model: filled if given: a FrameFlexible of three frequencies (the lowest takes the suffix ``_4``) or
            a plain network. Otherwise network, class count and preprocessing follow from the file, and the
            training frequencies are the network's usual ones.

    Raises:
        CheckpointError: if the file is missing, damaged, of another network, or holds objects that only
            an unsafe unpickling would read; or if a tensor is missing, left over or of another shape.
    """
    if isinstance(source, Mapping):
        where, contents = "the state dict", source
    else:
        where, contents = source, read_pickle(Path(source))
    tensors = unwrap(contents, where)
    places = {name: translate(name) for name in tensors}
    flexible = any(level is not None for _, level in places.values())
    if model is None:
        model = _build({ours: tensors[name] for name, (ours, _) in places.items()}, flexible, where)
    elif flexible and not (isinstance(model, FrameFlexible) and len(model.frames) == len(SUFFIXES)):
        raise CheckpointError(f"{where} is frame-flexible: give a FrameFlexible of three frequencies to fill")
    elif isinstance(model, FrameFlexible) and not flexible:
        raise CheckpointError(f"{where} is a plain network: load that, then make it a FrameFlexible")
    target, names = {}, {}
    for name, (ours, level) in places.items():
        if flexible:  # what branches share is listed under the first
            ours = f"branches.{model.frames[level or 0]}.{ours}"
        if ours in target:
            raise CheckpointError(f"{where} holds {name} twice, also as {names[ours]}")
        # The authors' alteration is a convolution, (C, 1, 1, 1) or (C, 1, 1, 1, 1).
        target[ours] = tensors[name].flatten() if ours.endswith("alteration.weight") else tensors[name]
        names[ours] = name
    return fill(model, target, where, names)


def load_any(path: Path) -> nn.Module:
    """A network of ours (safetensors), or a released one: a pickle, of which nothing is executed.

    Raises:
        CheckpointError: if there is no such file, or it holds no network that is known here.
    """
    released = path.suffix != ".safetensors" and path.exists()
    return load_released(path) if released else load(path)


def read_pickle(path: Path) -> object:
    """What a PyTorch file holds, if it is tensors and plain containers: nothing in it is executed.

    Raises:
        CheckpointError: if it is missing, damaged, or holds more than that.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what the restricted unpickler raises on damage can be anything
        if foreign := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path} was not read, because it holds more than tensors ({foreign[1]}) and could run code: "
                "if you trust it, save its state dict alone and load that"
            ) from error
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint") from error


def unwrap(contents: object, where: object) -> Mapping[str, Tensor]:
    """The state dict in ``contents``, bare or within the training state; ``where`` names it in errors."""
    for wrapper in WRAPPERS:
        if isinstance(contents, Mapping) and wrapper in contents:
            contents = contents[wrapper]
    if not isinstance(contents, Mapping) or not contents:
        raise CheckpointError(f"{where} holds no state dict")
    for name, tensor in contents.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{where} holds no state dict: {name!r} is not a named tensor")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{where} holds {name} in a form other than plain numbers")
    return contents


def translate(name: str) -> tuple[str, int | None]:
    """Our name of a released tensor within a plain network, and its frequency: 0 to 2, None if shared."""
    suffix = re.search(rf"_({'|'.join(SUFFIXES)})(?=\.)", name)
    if suffix:
        name = name[: suffix.start()] + name[suffix.end() :]
    for pattern, replacement in RULES:
        name = re.sub(pattern, replacement, name)
    return name, SUFFIXES.index(suffix[1]) if suffix else None


def _build(tensors: Mapping[str, Tensor], flexible: bool, where: object) -> nn.Module:
    found = next((network for mark, *network in NETWORKS if mark in tensors), None)
    if found is None:
        known = ", ".join(name for *_, name in NETWORKS)
        raise CheckpointError(f"{where} is none of the networks that were released ({known})")
    classifier, name = found
    if classifier not in tensors or tensors[classifier].dim() != 2:
        raise CheckpointError(f"{where} is a {name} without a classifier ({classifier})")
    create = create_model if flexible else create_backbone
    return create(name, len(tensors[classifier]))
