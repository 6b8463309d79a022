"""Convolutions and linear layers for a CPU: weights packed once, sums and activations done on the way out.

PyTorch's own layers bring their weights into oneDNN's order anew at every call, and read and write every
feature map once more for an activation and for a residual sum. oneDNN's fused operators, which PyTorch's
compiler uses, do neither.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.pooling import _MaxPoolNd

from ffn.backbones.tsm import temporal_shift
from ffn.fold import ADDITIONS, bypass, does_more, is_conv, is_linear, module_of, sole_user, terms

ops = torch.ops.mkldnn
NONE, RELU, GELU = ("none", [], ""), ("relu", [], ""), ("gelu", [], "none")  # as oneDNN's operators want them
ACTIVATIONS = {
    **dict.fromkeys((nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"), RELU),
    **dict.fromkeys((nn.GELU, F.gelu), GELU),
    **dict.fromkeys((nn.ReLU6, F.relu6), ("hardtanh", [0.0, 6.0], "")),
    **dict.fromkeys((nn.SiLU, F.silu), ("swish", [], "")),
}


def available(network: nn.Module, dtype: torch.dtype) -> bool:
    """Whether this processor and this PyTorch can run ``network`` so."""
    if not torch.backends.mkldnn.is_available() or any(p.device.type != "cpu" for p in network.parameters()):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and ops._is_mkldnn_bf16_supported())


class PackedConv(nn.Module):
    """``activation(conv(x))`` or, written over ``other``, ``activation(conv(x) + other)``."""

    def __init__(self, conv: nn.Module, activation: tuple):
        super().__init__()
        self.activation = activation
        # A convolution that spans one frame runs on frames, as images: oneDNN has more kernels for these.
        in_time = conv.kernel_size[0], conv.stride[0], conv.padding[0]
        self.per_frame = conv.weight.dim() == 5 and in_time == (1, 1, 0)
        first = int(self.per_frame)
        self.padding, self.stride = conv.padding[first:], conv.stride[first:]
        self.dilation, self.groups = conv.dilation[first:], conv.groups
        weight = conv.weight.squeeze(2) if self.per_frame else conv.weight
        self.channels, self.kernel_size = weight.shape[0], weight.shape[2:]
        self.weight = ops._reorder_convolution_weight(
            weight.contiguous(), self.padding, self.stride, self.dilation, self.groups
        )
        self.register_buffer("bias", conv.bias)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if other is None or other.shape == self._shape(x):
            return self._convolve(x, other, self.activation)
        out = self._convolve(x, None, NONE) + other  # which is broadcast
        return out if self.activation == NONE else F.relu(out)

    def _convolve(self, x: Tensor, other: Tensor | None, activation: tuple) -> Tensor:
        clips = x.shape[0]
        if self.per_frame:
            x, other = _frames(x), other if other is None else _frames(other)
        layer = self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        if other is None:
            out = ops._convolution_pointwise(x, *layer, *activation)
        else:
            name = None if activation == NONE else activation[0]
            out = ops._convolution_pointwise_.binary(other, x, *layer, "add", 1.0, name, [], None)
        return out.unflatten(0, (clips, -1)).transpose(1, 2) if self.per_frame else out

    def _shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of the output."""
        first = x.dim() - len(self.kernel_size)
        sizes = zip(x.shape[first:], self.padding, self.dilation, self.kernel_size, self.stride, strict=True)
        space = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes)
        return x.shape[0], self.channels, *x.shape[2:first], *space

    def extra_repr(self) -> str:
        return f"kernel_size={tuple(self.kernel_size)}, activation={self.activation[0]}"


class PackedLinear(nn.Module):
    """``activation(linear(x))``."""

    def __init__(self, linear: nn.Linear, activation: tuple):
        super().__init__()
        self.activation = activation
        self.weight = ops._reorder_linear_weight(linear.weight.contiguous())
        self.register_buffer("bias", linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return ops._linear_pointwise(x, self.weight, self.bias, *self.activation)

    def extra_repr(self) -> str:
        return f"activation={self.activation[0]}"


# What returns memory of its own, that nothing else refers to.
NEW = (F.max_pool2d, F.max_pool3d, torch.cat, temporal_shift, *ADDITIONS)
NEW_MODULES = (PackedConv, PackedLinear, _ConvNd, nn.Linear, _BatchNorm, nn.LayerNorm, _MaxPoolNd)


def _frames(x: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (B*T, C, H, W)."""
    return x.transpose(1, 2).flatten(0, 1)


def pack(network: fx.GraphModule) -> None:
    """Replace the convolutions and linear layers of ``network``, and what follows each, by packed ones."""
    for node in list(network.graph.nodes):
        layer = module_of(network, node)
        if is_conv(layer) and _packs(layer):
            summed = _take_sum(network, node)
            activation = _take_activation(network, node, [RELU] if summed else ACTIVATIONS.values())
            network.add_submodule(node.target, PackedConv(layer, activation))
        elif is_linear(layer):
            activation = _take_activation(network, node, ACTIVATIONS.values())
            network.add_submodule(node.target, PackedLinear(layer, activation))
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()


def _packs(conv: nn.Module) -> bool:
    return conv.weight.dim() > 3 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _take_activation(network: fx.GraphModule, node: fx.Node, choice: Collection[tuple]) -> tuple:
    """Take the activation that follows ``node``, if it is one of ``choice``, out of the graph."""
    user = sole_user(node)
    activation = ACTIVATIONS.get(_called(network, user))
    if activation not in choice or _approximate(network, user):
        return NONE
    bypass(network, user, node)
    return activation


def _approximate(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an activation is a GELU by its approximation, not by the error function."""
    module = network.get_submodule(node.target) if node.op == "call_module" else None
    return getattr(module, "approximate", node.kwargs.get("approximate", "none")) != "none"


def _take_sum(network: fx.GraphModule, conv: fx.Node) -> bool:
    """Let ``conv`` write its output over another feature map that is added to it, if it may.

    It may if the other term is memory of its own that nothing reads from the convolution on.
    """
    order = {node: i for i, node in enumerate(network.graph.nodes)}
    add = sole_user(conv)
    for branch, other in terms(add) if add else ():
        if branch is not conv or not isinstance(other, fx.Node):
            continue
        touching = [other, *(user for user in other.users if user is not add)]
        if all(_is_new(network, node) and order[node] < order[conv] for node in touching):
            conv.args = (*conv.args, other)
            bypass(network, add, conv)
            return True
    return False


def _is_new(network: fx.GraphModule, node: fx.Node) -> bool:
    called = _called(network, node)
    return called in NEW or (isinstance(called, type) and issubclass(called, NEW_MODULES))


def _called(network: fx.GraphModule, node: fx.Node | None) -> object:
    """What a node calls: a function, a method's name or a module's type; None for anything else."""
    if node is None or node.op in ("get_attr", "placeholder", "output"):
        return None
    if node.op != "call_module":
        return node.target
    module = network.get_submodule(node.target)
    return None if does_more(module) else type(module)
