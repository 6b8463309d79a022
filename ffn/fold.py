"""Folding: a network in evaluation mode, rewritten without the norms and alterations it can do without.

The network's graph is traced (torch.fx), so one set of rules serves every network, the user's own included.
A BatchNorm in evaluation and a weight alteration are affine maps of each channel; an affine map before or
after a convolution is another convolution. What no rule fits is left as it is.
"""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized
from torchvision.ops import StochasticDepth

from ffn.backbones.uniformer import DepthwiseConv, PointwiseConv
from ffn.flexible import WeightAlteration

BATCH_NORMS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)  # timm's, say, hold an activation as well
IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd, StochasticDepth)  # in evaluation, if their forward is
IDENTITY_FORWARDS = {kind.forward for kind in (*nn.modules.dropout._DropoutNd.__subclasses__(), *IDENTITIES)}
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CONV_FORWARDS = {kind.forward for kind in (*CONVS, PointwiseConv)}
KERNELS = {kind._conv_forward for kind in (*CONVS, DepthwiseConv)}
ADDITIONS, INPLACE_ADDITIONS = (operator.add, torch.add, "add"), (operator.iadd, "add_")
PRODUCTS = (operator.mul, torch.mul, "mul")
_tracing = threading.Lock()


def fold(network: nn.Module) -> nn.Module:
    """A copy of ``network``, in evaluation mode, that computes the same from fewer and simpler layers.

    A network that torch.fx cannot trace (its Python depends on the values it computes) is copied as it is.
    While it traces, ``isinstance(x, torch.Tensor)`` is False in the network's own Python.
    """
    folded = trace(_frozen(network))
    if folded is None:
        return _frozen(network)  # anew: what was traced may have kept a symbolic value
    for rule in RULES:
        for node in list(folded.graph.nodes):
            rule(folded, node)
    folded.graph.lint()
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded


def _frozen(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).eval().requires_grad_(False)


def trace(network: nn.Module) -> fx.GraphModule | None:
    """The network's graph, or None if it has none."""
    with _tracing:  # torch.fx patches nn.Module while it traces
        try:
            return fx.GraphModule(network, _Tracer().trace(network))
        except Exception:  # what a network's Python makes of symbolic values can be anything
            return None


class _Proxy(fx.Proxy):
    """Has in-place operators, which torch.fx would take for those that return a new tensor."""

    def __iadd__(self, other):
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other):
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other):
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other):
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


class _Tracer(fx.Tracer):
    """Keeps whole what the rules know, and keeps out of the way of networks that other threads run."""

    def trace(self, root, concrete_args=None):
        self.thread = threading.get_ident()
        return super().trace(root, concrete_args)

    def proxy(self, node):
        return _Proxy(node, self)

    def is_leaf_module(self, module, name):
        leaf = (_ConvNd, nn.Linear, nn.LayerNorm, _BatchNorm, WeightAlteration, *IDENTITIES)
        return isinstance(module, leaf) or super().is_leaf_module(module, name)

    def call_module(self, module, forward, args, kwargs):
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(module, forward, args, kwargs)


# The graph


def module_of(network: fx.GraphModule, node: object) -> nn.Module | None:
    """The module that ``node`` calls with one argument, if it is called there alone and so may be changed."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    for other in network.graph.nodes:
        reads = other.op == "get_attr" and other.target.startswith(f"{node.target}.")
        if reads or (other.op == "call_module" and other.target == node.target and other is not node):
            return None
    module = network.get_submodule(node.target)
    return None if does_more(module) else module


def does_more(module: nn.Module) -> bool:
    """Whether calling ``module`` does more than its forward and its own tensors say."""
    return bool(module._forward_hooks or module._forward_pre_hooks or is_parametrized(module))


def bypass(network: fx.GraphModule, node: fx.Node, by: fx.Node) -> None:
    """Take ``node`` out of the graph; what used it uses ``by``."""
    node.replace_all_uses_with(by)
    network.graph.erase_node(node)


def sole_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def terms(node: fx.Node) -> Iterator[tuple[object, object]]:
    """The two terms of a sum, in the orders in which the sum may be put in the place of the first."""
    if node.target in (*ADDITIONS, *INPLACE_ADDITIONS) and len(node.args) == 2 and not node.kwargs:
        yield node.args
        if node.target in ADDITIONS:
            yield node.args[::-1]


def is_conv(module: nn.Module | None) -> bool:
    """A convolution and nothing else: a subclass's own forward may pad or standardise in ways of its own."""
    kind = type(module)
    plain = isinstance(module, _ConvNd) and kind.forward in CONV_FORWARDS and kind._conv_forward in KERNELS
    return plain and not module.transposed


# The affine maps


class Affine(NamedTuple):
    """``scale * x + shift`` for each channel, in double precision; channels stand in ``dim``, 1 or -1."""

    scale: Tensor
    shift: Tensor
    dim: int


def affine_of(module: nn.Module | None) -> Affine | None:
    """What ``module`` computes or, of a LayerNorm, what it does last."""
    if isinstance(module, WeightAlteration):
        weight = module.weight.double()
        return Affine(1 + weight, torch.zeros_like(weight), module.dim)
    if getattr(type(module), "forward", None) in BATCH_NORMS and module.running_mean is not None:
        deviation = (module.running_var.double() + module.eps).sqrt()
        scale = (1 if module.weight is None else module.weight.double()) / deviation
        shift = 0 if module.bias is None else module.bias.double()
        return Affine(scale, shift - module.running_mean.double() * scale, 1)
    if type(module) is nn.LayerNorm and module.weight is not None and module.weight.dim() == 1:
        scale = module.weight.double()
        return Affine(scale, torch.zeros_like(scale) if module.bias is None else module.bias.double(), -1)
    return None


def _set(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    layer.bias = bias if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False)


def _put_after(conv: nn.Module, affine: Affine) -> None:
    """Let ``conv`` compute ``affine(conv(x))``."""
    scale, shift, _ = affine
    weight = conv.weight.double() * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    _set(conv, weight, shift if conv.bias is None else conv.bias.double() * scale + shift)


def _put_before(layer: nn.Module, affine: Affine) -> None:
    """Let ``layer``, a convolution or a linear layer, compute ``layer(affine(x))``."""
    scale, shift, _ = affine
    groups = getattr(layer, "groups", 1)
    weight = layer.weight.double().unflatten(0, (groups, -1))  # (groups, out, in, ...)
    by_input = (groups, 1, -1, *[1] * (weight.dim() - 3))
    bias = (weight * shift.view(by_input)).flatten(2).sum(2).flatten()
    if layer.bias is not None:
        bias = bias + layer.bias.double()
    elif not shift.any():
        bias = None
    _set(layer, (weight * scale.view(by_input)).flatten(0, 1), bias)


# The rules


def _drop_identity(network: fx.GraphModule, node: fx.Node) -> None:
    if node.op == "call_module":
        module = network.get_submodule(node.target)
        if type(module).forward in IDENTITY_FORWARDS and not does_more(module):
            bypass(network, node, node.args[0])


def _fold_backwards(network: fx.GraphModule, node: fx.Node) -> None:
    """An affine map goes into the convolution whose output it takes."""
    module = module_of(network, node)
    affine = affine_of(module)
    if affine is None or isinstance(module, nn.LayerNorm):
        return
    before = node.args[0]
    conv = module_of(network, before)
    if affine.dim == 1 and is_conv(conv) and sole_user(before) is node:
        _put_after(conv, affine)
        bypass(network, node, before)


def _fold_residual(network: fx.GraphModule, node: fx.Node) -> None:
    """``x + depthwise(x)`` is one depth-wise convolution, with 1 added to its centre."""
    for branch, x in terms(node):
        conv = module_of(network, branch)
        if is_conv(conv) and _keeps_shape(conv) and branch.args == (x,) and sole_user(branch) is node:
            weight = conv.weight.double().clone()
            weight[(slice(None), 0, *(size // 2 for size in conv.kernel_size))] += 1
            _set(conv, weight, conv.bias)
            bypass(network, node, branch)
            return


def _keeps_shape(conv: nn.Module) -> bool:
    same = tuple(size // 2 for size in conv.kernel_size)
    odd = all(size % 2 for size in conv.kernel_size)
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    return depthwise and odd and conv.padding == same and {*conv.stride, *conv.dilation} == {1}


def _fold_scaling(network: fx.GraphModule, node: fx.Node) -> None:
    """``x + x * a`` is ``x * (a + 1)``: the large feature map is read and written once less."""
    for product, x in terms(node):
        scales = isinstance(product, fx.Node) and product.target in PRODUCTS and not product.kwargs
        if scales and x in product.args and sole_user(product) is node:
            factor = product.args[1 - product.args.index(x)]
            with network.graph.inserting_before(product):
                product.args = (x, network.graph.call_function(operator.add, (factor, 1)))
            bypass(network, node, product)
            return


def _fold_forwards(network: fx.GraphModule, node: fx.Node) -> None:
    """An affine map goes into the layers that take its output, if each can take it."""
    module = module_of(network, node)
    affine = affine_of(module)
    layers = [module_of(network, user) for user in node.users]
    if affine is None or not layers or not all(_takes(layer, affine) for layer in layers):
        return
    for layer in layers:
        _put_before(layer, affine)
    if isinstance(module, nn.LayerNorm):
        module.weight = module.bias = None
        module.elementwise_affine = False
    else:
        bypass(network, node, node.args[0])


def _takes(layer: nn.Module | None, affine: Affine) -> bool:
    if affine.dim == -1:
        return is_linear(layer)
    if not is_conv(layer):
        return False
    unpadded = layer.padding == "valid" or not any(layer.padding)
    # Padding is added after the map: zeros stand for themselves only if nothing is shifted.
    return unpadded or (layer.padding_mode == "zeros" and not affine.shift.any())


def is_linear(layer: nn.Module | None) -> bool:
    return type(layer) is nn.Linear


def _fold_through_mean(network: fx.GraphModule, node: fx.Node) -> None:
    """An affine map, averaged over all positions, goes into the linear layer that takes the mean."""
    affine, mean = affine_of(module_of(network, node)), sole_user(node)
    if affine is None or affine.dim != 1 or mean is None or mean.target not in ("mean", torch.mean):
        return
    head = module_of(network, sole_user(mean))
    if is_linear(head) and not mean.kwargs and mean.args[1:] in (((2, 3, 4),), ((2, 3),)):
        _put_before(head, affine)
        bypass(network, node, node.args[0])


RULES = (
    _drop_identity,
    _fold_backwards,
    _fold_residual,
    _fold_forwards,
    _fold_through_mean,
    _fold_scaling,
)
