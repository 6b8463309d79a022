"""TEA: a Res2Net whose blocks excite moving channels and see further in time from chunk to chunk.

Li, Ji, Shi, Zhang, Kang, Wang, "TEA: Temporal Excitation and Aggregation for Action Recognition",
CVPR 2020, arXiv 2004.01398. As released with the Frame Flexible Network: no weight alteration here.

Shapes: B clips, T frames, C channels, H W pixels. Inside, frames stand in the batch: (B*T, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ffn.backbones.tsm import TSM
from ffn.preprocess import Preprocess
from ffn.registry import register


class TemporalConv(nn.Module):
    """A depth-wise convolution over three frames, zeros beyond the ends of the clip.

    Starts as the identity or, with ``shift``, as a shift: the first half of the channels from frame t+1,
    the second from t-1.
    """

    def __init__(self, channels: int, shift: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, 3))
        with torch.no_grad():
            if shift:
                self.weight[: channels // 2, :, 2] = 1
                self.weight[channels // 2 :, :, 0] = 1
            else:
                self.weight[:, :, 1] = 1

    def forward(self, x: Tensor, frames: int) -> Tensor:
        if self.training and x.stride(1) != 1:
            # In the released code's layout also sum for sum: training amplifies a difference in the last bit.
            pixels = x.unflatten(0, (-1, frames)).permute(0, 3, 4, 2, 1)  # (B, H, W, C, T)
            out = F.conv1d(pixels.flatten(0, 2), self.weight, padding=1, groups=x.shape[1])
            return out.view(pixels.shape).permute(0, 4, 3, 1, 2).flatten(0, 1)
        # A depth-wise convolution over the frames of images that are rows of H*W pixels, channels last.
        images = x.permute(0, 2, 3, 1).unflatten(0, (-1, frames)).flatten(2, 3).permute(0, 3, 1, 2)
        out = F.conv2d(images, self.weight[..., None], padding=(1, 0), groups=x.shape[1])
        return out.permute(0, 2, 3, 1).unflatten(2, x.shape[2:]).flatten(0, 1).permute(0, 3, 1, 2)


class MotionExcitation(nn.Module):
    """Scales each frame's channels, between a half and three halves, by how they change to the next."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        reduced = channels // reduction
        self.conv1 = nn.Conv2d(channels, reduced, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(reduced)
        self.conv2 = nn.Conv2d(reduced, reduced, 3, padding=1, groups=reduced, bias=False)
        self.conv3 = nn.Conv2d(reduced, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        now = self.bn1(self.conv1(x))
        following = self.conv2(now).unflatten(0, (-1, frames))[:, 1:]
        motion = following - now.unflatten(0, (-1, frames))[:, :-1]
        motion = F.pad(motion.mean((3, 4), keepdim=True), (0, 0, 0, 0, 0, 0, 0, 1))  # the last frame: zero
        attention = self.bn3(self.conv3(motion.flatten(0, 1))).sigmoid() - 0.5
        return x + x * attention


class Bottle2neck(nn.Module):
    """Motion excitation, then multiple temporal aggregation over four chunks of the channels.

    In the first block of a layer (``stage``), which changes the shape, the chunks stand alone.
    """

    expansion, scale = 4, 4

    def __init__(self, in_channels: int, planes: int, stride: int):
        super().__init__()
        width, out_channels = planes * 26 // 64, planes * self.expansion
        self.stage = in_channels != out_channels
        self.conv1 = nn.Conv2d(in_channels, width * self.scale, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width * self.scale)
        self.me = MotionExcitation(width * self.scale)
        convs = [nn.Conv2d(width, width, 3, stride, padding=1, bias=False) for _ in range(self.scale - 1)]
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in convs)
        self.shifts = nn.ModuleList(TemporalConv(width, shift=i == len(convs)) for i in range(self.scale))
        self.conv3 = nn.Conv2d(width * self.scale, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.pool, self.downsample = nn.Identity(), nn.Identity()
        if self.stage:
            self.pool = nn.AvgPool2d(3, stride, padding=1)
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor, frames: int) -> Tensor:
        out = self.me(F.relu(self.bn1(self.conv1(x)), inplace=True), frames)
        chunks, outs = out.chunk(self.scale, 1), []
        for i, (conv, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            chunk = chunks[i]
            if i > 0 and not self.stage:
                chunk = chunk + outs[-1]
            outs.append(F.relu(bn(conv(self.shifts[i](chunk, frames))), inplace=True))
        outs.append(self.pool(self.shifts[-1](chunks[-1], frames)))
        out = self.bn3(self.conv3(torch.cat(outs, 1)))
        return F.relu(out + self.downsample(x), inplace=True)


class TEA(TSM):
    """TSM's frame-wise ResNet with TEA's blocks: clip ``(B, 3, T, H, W)`` -> logits ``(B, num_classes)``."""

    def __init__(self, layers: tuple[int, int, int, int], num_classes: int, **options):
        super().__init__(Bottle2neck, layers, num_classes, **options)


@register()
def tea_resnet50(num_classes: int, **options) -> TEA:
    return TEA((3, 4, 6, 3), num_classes, **options)


@register(preprocess=Preprocess(size=64, resize=64))
def tea_tiny(num_classes: int, **options) -> TEA:
    """About 0.6M parameters, for clips of 64 to 112 pixels on a CPU."""
    return TEA((1, 1, 2, 1), num_classes, **{"width": 16, "dropout": 0.2} | options)
