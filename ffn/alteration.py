"""Weight alterations: what they are, and where a network gets them.

Zhang et al., "Frame Flexible Network", CVPR 2023, arXiv 2303.14817: a scale for each channel, private to a
training frequency, before each residual block's convolutions. The places are found by name, without running
the network; temporal shifts go in front of the same layers (:mod:`ffn.backbones.per_frame`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import filter as matches

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

# How torchvision, timm and PyTorchVideo call blocks that add their input to what their convolutions make
# of it. Res2Net's Bottle2neck is not among them: TEA's are left unaltered, as published.
RESIDUAL_BLOCK = re.compile("BasicBlock|Bottleneck|Residual|ResBlock|M[Bb]Conv|CNBlock|ConvNeXtBlock")
HAS_SHORTCUT = ("use_res_connect", "has_skip", "use_shortcut", "apply_residual")  # where a block says so
SHORTCUT = ("downsample", "shortcut", "skip")  # children that are no part of the convolution path

Places = str | Iterable[str] | Callable[[str, nn.Module], bool]


class AlterationPoint(nn.Identity):
    """Where a backbone lets :class:`ffn.FrameFlexible` put a weight alteration; does nothing by itself."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels


class WeightAlteration(nn.Module):
    """Scales channel c by ``1 + weight[c]``: the paper's residual depth-wise 1x1 convolution.

    Takes and returns ``(N, channels, ...)`` or, with ``dim=-1``, ``(..., channels)``. Weights start from a
    normal of standard deviation 1e-3.
    """

    def __init__(self, channels: int, dim: int = 1):
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.empty(channels).normal_(std=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if self.dim == 1:
            weight = weight.view(-1, *[1] * (x.dim() - 2))
        return _Scale.apply(x, weight)

    def extra_repr(self) -> str:
        return str(self.weight.numel())


class _Scale(torch.autograd.Function):
    """``x + x * weight`` and its gradient, of which PyTorch's own makes more feature maps on the way."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return (x * weight).add_(x)  # in two steps, as released: training then agrees to the last bits

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return torch.addcmul(gradient, gradient, weight), (gradient * x).sum_to_size(weight.shape)


class Altered(nn.Module):
    """``layer``, its input altered: stands in the layer's place in networks that have no AlterationPoint."""

    def __init__(self, alteration: WeightAlteration | AlterationPoint, layer: nn.Module):
        super().__init__()
        self.alteration = alteration
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.alteration(x))


def alteration_places(network: nn.Module, where: bool | Places) -> tuple[str, ...]:
    """Names of the modules of ``network`` whose input is altered; see :class:`ffn.FrameFlexible`."""
    if where is True:
        points = [name for name, module in network.named_modules() if isinstance(module, AlterationPoint)]
        return tuple(points or first_convolutions(network))
    return () if where is False else tuple(select(network, where))


def put_alterations(network: nn.Module, places: Iterable[str]) -> None:
    """Put a fresh weight alteration at each of ``places``, on the network's device."""
    device = next((p.device for p in network.parameters()), None)

    def altered(module: nn.Module) -> nn.Module:
        if isinstance(module, AlterationPoint):
            return WeightAlteration(module.channels).to(device)
        return Altered(WeightAlteration(*_input_channels(module)).to(device), module)

    substitute(network, places, altered)


def substitute(network: nn.Module, places: Iterable[str], build: Callable[[nn.Module], nn.Module]) -> None:
    """Replace each module of ``network`` that ``places`` names by what ``build`` makes of it."""
    # All are looked up first: one place may lie within another.
    found = [(network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in places]
    for parent, name in found:
        setattr(parent, name, build(getattr(parent, name)))


def first_convolutions(network: nn.Module) -> list[str]:
    """The first convolution of each residual block, by name: where TSM shifts and FFN alters.

    A residual block is a module whose class is called ``...BasicBlock...``, ``...Bottleneck...``,
    ``...Residual...``, ``...ResBlock...``, ``...MBConv...``, ``...CNBlock...`` or ``...ConvNeXtBlock...``,
    which holds no other such module and does not say that it has no shortcut (``use_res_connect``,
    ``has_skip``, ``use_shortcut`` or ``apply_residual`` is False). Its first convolution is the first in
    its list of modules, children called ``downsample``, ``shortcut`` or ``skip`` left out.
    """
    firsts = []
    for name, block in network.named_modules():
        if name and _is_residual(block) and sum(map(_is_residual, block.modules())) == 1:
            says = [getattr(block, attribute, True) for attribute in HAS_SHORTCUT]
            firsts += [] if False in says else list(_convolutions(name, block))[:1]
    return firsts


def select(network: nn.Module, places: Places) -> list[str]:
    """The modules of ``network``, by name, that ``places`` picks: names, patterns or a function.

    In a pattern, ``*`` stands for anything, dots included; a function is called with a name and its module.
    For an ``nn.Sequential``, whose input is that of its first layer, the first layer is returned.

    Raises:
        ValueError: if a name or pattern, or the function, picks no module.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    if callable(places):
        chosen = {name for name, module in modules.items() if places(name, module)}
        if not chosen:
            raise ValueError(f"the function given for places picks no module of {type(network).__name__}")
    else:
        chosen = set()
        for pattern in [places] if isinstance(places, str) else places:
            found = matches(modules, pattern)
            if not found:
                raise ValueError(
                    f"{type(network).__name__} has no module {pattern!r}; "
                    "its named_modules() lists those that it has"
                )
            chosen.update(found)
    return list(dict.fromkeys(_first_layer(name, modules[name]) for name in modules if name in chosen))


def _is_residual(module: nn.Module) -> bool:
    return RESIDUAL_BLOCK.search(type(module).__name__) is not None


def _convolutions(name: str, module: nn.Module) -> Iterator[str]:
    if isinstance(module, _ConvNd):
        yield name
    for child_name, child in module.named_children():
        if child_name not in SHORTCUT:
            yield from _convolutions(f"{name}.{child_name}", child)


def _first_layer(name: str, module: nn.Module) -> str:
    while type(module).forward is nn.Sequential.forward and len(module):
        child_name, module = next(module.named_children())
        name = f"{name}.{child_name}"
    return name


def _input_channels(module: nn.Module) -> tuple[int, int]:
    """How many channels the input of ``module`` has, and in which dimension: its first layer tells."""
    for layer in module.modules():
        if isinstance(layer, _ConvNd):
            return layer.in_channels, 1
        if isinstance(layer, nn.Linear):
            return layer.in_features, -1
    raise ValueError(
        f"the input of a {type(module).__name__} cannot be altered, as its channels are unknown: "
        "name a convolution, a linear layer or a module that holds one"
    )
