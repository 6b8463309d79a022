"""UniFormer: convolution relates neighbours in early stages, self-attention all positions in late ones.

Li, Wang, Gao, Song, Liu, Li, Qiao, "UniFormer: Unified Transformer for Efficient Spatiotemporal
Representation Learning", ICLR 2022, arXiv 2201.04676.

Shapes: B clips, C channels, T time steps (half the frames), H W positions, N = T*H*W tokens.
Feature maps are (B, C, T, H, W) with the channels last in memory, so that their tokens (B, N, C) are a view.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from ffn.flexible import AlterationPoint
from ffn.preprocess import Preprocess
from ffn.registry import register


class PatchEmbedding(nn.Module):
    """Non-overlapping patches in space; with ``halve_time``, overlapping ones of stride 2 in time."""

    def __init__(self, in_channels: int, channels: int, patch: int, halve_time: bool = False):
        super().__init__()
        time = 3 if halve_time else 1
        stride = (2 if halve_time else 1, patch, patch)
        self.proj = nn.Conv3d(in_channels, channels, (time, patch, patch), stride, padding=(time // 2, 0, 0))
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        # The norm's output is contiguous as (B, T, H, W, C): from here on the channels are last in memory.
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)


class PointwiseConv(nn.Conv3d):
    """A 1x1x1 convolution, computed as the linear layer of every position that it is: faster."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)


class DepthwiseConv(nn.Conv3d):
    def __init__(self, channels: int, kernel_size: int):
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if torch.is_grad_enabled() and weight.requires_grad and weight.device.type == "cpu":
            return _TrainedDepthwise.apply(x, weight, bias)
        return super()._conv_forward(x, weight, bias)


class _TrainedDepthwise(torch.autograd.Function):
    """A depth-wise convolution whose gradient comes from what is fast on a CPU: forward and float32 kernels."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv3d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        padding = [weight.shape[-1] // 2] * 3
        by_x = None
        if ctx.needs_input_grad[0]:
            mirrored = weight.flip(2, 3, 4).to(gradient.dtype)
            by_x = F.conv3d(gradient, mirrored, padding=padding, groups=len(weight)).to(x.dtype)
        layer = ([1] * 3, padding, [1] * 3, False, [0] * 3, len(weight))  # stride, padding, dilation ...
        by_weight = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), None, *layer, [False, True, False]
        )[1]
        return by_x, by_weight.to(weight.dtype), gradient.sum((0, 2, 3, 4), dtype=weight.dtype)


class MLP(nn.Module):
    """Two layers of the kind ``layer``, four times as wide in between."""

    def __init__(self, channels: int, layer: type[nn.Linear] | type[PointwiseConv]):
        super().__init__()
        self.fc1 = layer(channels, 4 * channels)
        self.fc2 = layer(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens ``(B, N, C)``."""

    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        heads = self.qkv(tokens).unflatten(-1, (3, -1, self.head_dim))  # (B, N, 3, heads, head_dim)
        query, key, value = heads.transpose(1, 3).unbind(2)  # each (B, heads, N, head_dim)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).flatten(2))


class LocalBlock(nn.Module):
    """A token's affinity to its 5x5x5 neighbours is learnt, whatever they hold: a depth-wise convolution."""

    def __init__(self, channels: int, drop_path: float):
        super().__init__()
        self.alteration = AlterationPoint(channels)
        self.pos_embed = DepthwiseConv(channels, 3)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = PointwiseConv(channels, channels)
        self.attn = DepthwiseConv(channels, 5)
        self.conv2 = PointwiseConv(channels, channels)
        self.norm2 = nn.BatchNorm3d(channels)
        self.mlp = MLP(channels, PointwiseConv)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        x = self.alteration(x)
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class GlobalBlock(nn.Module):
    """A token's affinity to every other is computed from what they hold: self-attention."""

    def __init__(self, channels: int, drop_path: float, head_dim: int):
        super().__init__()
        self.alteration = AlterationPoint(channels)
        self.pos_embed = DepthwiseConv(channels, 3)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = Attention(channels, head_dim)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(channels, nn.Linear)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        x = self.alteration(x)
        x = x + self.pos_embed(x)
        tokens = x.movedim(1, -1).flatten(1, 3)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        # Through (B, C, N) instead, a single clip would lose the strides that say channels last.
        return tokens.unflatten(1, x.shape[2:]).movedim(-1, 1)


class UniFormer(nn.Module):
    """Clip ``(B, 3, T, H, W)`` -> logits ``(B, num_classes)``.

    ``dims`` and ``depths`` are the four stages' channels and blocks; the chance to drop a block's path
    grows evenly from 0 at the first block to ``drop_path`` at the last.
    """

    def __init__(
        self,
        dims: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        num_classes: int,
        head_dim: int = 64,
        drop_path: float = 0.2,
        dropout: float = 0.0,
    ):
        super().__init__()
        rates = iter(torch.linspace(0, drop_path, sum(depths)).tolist())
        in_channels = 3
        for i, (channels, depth) in enumerate(zip(dims, depths, strict=True)):
            first = i == 0
            embedding = PatchEmbedding(in_channels, channels, patch=4 if first else 2, halve_time=first)
            blocks = nn.ModuleList()
            for _ in range(depth):
                local = i < 2
                rate = next(rates)
                blocks.append(LocalBlock(channels, rate) if local else GlobalBlock(channels, rate, head_dim))
            self.add_module(f"patch_embed{i + 1}", embedding)
            self.add_module(f"blocks{i + 1}", blocks)
            in_channels = channels
        self.norm = nn.BatchNorm3d(in_channels)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(in_channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        # As in the authors' code, convolutions keep PyTorch's own initialisation.
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, clip: Tensor) -> Tensor:
        x = clip
        for embed, blocks in (
            (self.patch_embed1, self.blocks1),
            (self.patch_embed2, self.blocks2),
            (self.patch_embed3, self.blocks3),
            (self.patch_embed4, self.blocks4),
        ):
            x = embed(x)
            for block in blocks:
                x = block(x)
        x = self.dropout(self.norm(x).mean((2, 3, 4)))
        return self.head(x)


@register(
    preprocess=Preprocess(size=224, resize=224, mean=(0.45,) * 3, std=(0.225,) * 3, bgr=True, sampling="span")
)
def uniformer_small(num_classes: int, **options) -> UniFormer:
    return UniFormer((64, 128, 320, 512), (3, 4, 8, 3), num_classes, **options)


@register(preprocess=Preprocess(size=64, resize=64, mean=(0.45,) * 3, std=(0.225,) * 3, sampling="span"))
def uniformer_tiny(num_classes: int, **options) -> UniFormer:
    """About 0.6M parameters, for clips of 64 to 112 pixels on a CPU."""
    options = {"head_dim": 32, "drop_path": 0.1} | options
    return UniFormer((32, 64, 96, 128), (1, 1, 2, 1), num_classes, **options)
