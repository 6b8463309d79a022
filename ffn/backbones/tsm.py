"""TSM: a 2D ResNet that looks at neighbouring frames by shifting channels in time.

Lin, Gan, Han, "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019, arXiv 1811.08383.

Shapes: B clips, T frames, C channels, H W pixels. Inside, frames stand in the batch: (B*T, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ffn.flexible import AlterationPoint
from ffn.preprocess import Preprocess
from ffn.registry import register


@fx.wrap  # one step of a traced graph, since its assignments cannot be traced
def temporal_shift(x: Tensor, frames: int) -> Tensor:
    """Bring an eighth of the channels from frame t+1 and the next eighth from t-1; zeros at the ends.

    ``x`` is ``(B * frames, C, H, W)``; the memory layout is kept.
    """
    if torch.compiler.is_compiling():
        return _shift_as_one(x, frames)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Shift.apply(x, frames)
    return _shift(x, frames, fetch=0, carry=1)


class _Shift(torch.autograd.Function):
    """Its gradient is the shift the other way; PyTorch's own, of the assignments, copies it four times."""

    @staticmethod
    def forward(x: Tensor, frames: int) -> Tensor:
        return _shift(x, frames, fetch=0, carry=1)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.frames = inputs[1]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return _shift(gradient, ctx.frames, fetch=1, carry=0), None


def _shift(x: Tensor, frames: int, fetch: int, carry: int) -> Tensor:
    """Bring eighth ``fetch`` of the channels from frame t+1 and eighth ``carry`` from t-1."""
    fold = x.shape[1] // 8
    ahead, behind = (slice(i * fold, (i + 1) * fold) for i in (fetch, carry))
    x = x.unflatten(0, (-1, frames))
    out = x.clone()
    out[:, :-1, ahead] = x[:, 1:, ahead]
    out[:, -1, ahead] = 0
    out[:, 1:, behind] = x[:, :-1, behind]
    out[:, 0, behind] = 0
    return out.flatten(0, 1)


def _shift_as_one(x: Tensor, frames: int) -> Tensor:
    """The same for compilers, which make one loop of this, and many of the assignments above."""
    fold = x.shape[1] // 8
    x = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames))  # (B, T, H, W, C)
    following, before, rest = x[:, 1:, ..., :fold], x[:, :-1, ..., fold : 2 * fold], x[..., 2 * fold :]
    following, before = F.pad(following, (0,) * 7 + (1,)), F.pad(before, (0,) * 6 + (1, 0))
    return torch.cat([following, before, rest], -1).flatten(0, 1).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """What both kinds of residual block begin with."""

    def _altered_shift(self, x: Tensor, frames: int) -> Tensor:
        if self.training:  # the same, and what the gradient needs is x, which is in memory anyway
            return temporal_shift(self.alteration(x), frames)
        return self.alteration(temporal_shift(x, frames))


class BasicBlock(_Block):
    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.alteration = AlterationPoint(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(in_channels, width, stride)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        out = self._altered_shift(x, frames)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(x), inplace=True)


class Bottleneck(_Block):
    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        out_channels = width * self.expansion
        self.alteration = AlterationPoint(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        out = self._altered_shift(x, frames)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.downsample(x), inplace=True)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class TSM(nn.Module):
    """Clip ``(B, 3, T, H, W)`` -> logits ``(B, num_classes)``, the mean over frames."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, int, int, int],
        num_classes: int,
        width: int = 64,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for i, depth in enumerate(layers):
            blocks = nn.ModuleList()
            for j in range(depth):
                blocks.append(block(channels, width << i, stride=2 if i > 0 and j == 0 else 1))
                channels = (width << i) * block.expansion
            self.add_module(f"layer{i + 1}", blocks)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=1e-3)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clip: Tensor) -> Tensor:
        frames = clip.shape[2]
        x = clip.transpose(1, 2).flatten(0, 1)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                x = block(x, frames)
        x = self.dropout(x.mean((2, 3)))
        return self.fc(x).unflatten(0, (-1, frames)).mean(1)


@register()
def tsm_resnet18(num_classes: int, **options) -> TSM:
    return TSM(BasicBlock, (2, 2, 2, 2), num_classes, **options)


@register()
def tsm_resnet50(num_classes: int, **options) -> TSM:
    return TSM(Bottleneck, (3, 4, 6, 3), num_classes, **options)


@register()
def tsm_resnet101(num_classes: int, **options) -> TSM:
    return TSM(Bottleneck, (3, 4, 23, 3), num_classes, **options)


@register(preprocess=Preprocess(size=64, resize=64))
def tsm_tiny(num_classes: int, **options) -> TSM:
    """About 0.4M parameters, for clips of 64 to 112 pixels on a CPU."""
    return TSM(BasicBlock, (1, 1, 2, 1), num_classes, **{"width": 16, "dropout": 0.2} | options)
