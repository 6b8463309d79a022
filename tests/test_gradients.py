"""Gradients that are written out, for speed and memory, are those that PyTorch finds by itself."""

import pytest
import torch
from torch.nn import functional as F

from ffn.alteration import WeightAlteration
from ffn.backbones.tsm import _shift, temporal_shift
from ffn.backbones.uniformer import DepthwiseConv


def gradients(function, *inputs):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*inputs)
    (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    return [out.detach(), *(tensor.grad for tensor in inputs)]


def test_temporal_shift():
    x = torch.randn(6, 16, 2, 2)
    ours = gradients(lambda x: temporal_shift(x, 3), x)
    for own, autograd in zip(ours, gradients(lambda x: _shift(x, 3, fetch=0, carry=1), x), strict=True):
        assert torch.equal(own, autograd)


@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (2, 5, 2, 3, 3)])
def test_weight_alteration(shape):
    layer, x, weight = WeightAlteration(5), torch.randn(shape), torch.randn(5)

    def altered(x, weight):
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    def plain(x, weight):
        return x + x * weight.view(-1, *[1] * (x.dim() - 2))

    for own, autograd in zip(gradients(altered, x, weight), gradients(plain, x, weight), strict=True):
        assert torch.allclose(own, autograd, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_depthwise_convolution(dtype):
    layer, x = DepthwiseConv(4, 3), torch.randn(2, 4, 3, 5, 5)

    def ours(x, weight, bias):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,)).float()

    def plain(x, weight, bias):
        return F.conv3d(x, weight, bias, padding=1, groups=4)

    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    parameters = x, layer.weight, layer.bias
    for own, autograd in zip(gradients(ours, *parameters), gradients(plain, *parameters), strict=True):
        assert (own - autograd).norm() <= tolerance * autograd.norm()
