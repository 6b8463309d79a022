"""SlowFast: a wide pathway that sees few frames and a thin one that sees all of them.

Feichtenhofer, Fan, Malik, He, "SlowFast Networks for Video Recognition", ICCV 2019, arXiv 1812.03982.

Shapes: B clips, T frames, C channels, H W pixels; (B, C, T, H, W) throughout. The fast pathway keeps all T
frames and has C / beta channels; the slow one has ceil(T / alpha) frames and C channels. Time is never
strided within a pathway.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ffn.flexible import AlterationPoint
from ffn.preprocess import Preprocess
from ffn.registry import register

ALPHA = 4  # frames of the fast pathway for each one of the slow pathway
FUSION_KERNEL, FUSION_RATIO = 7, 2  # of the lateral connections: frames, and channels per fast channel
KERNELS = ((1, 1, 1, 3, 3), (5, 3, 3, 3, 3))  # frames that stem and res2 to res5 span: slow, fast
EXPANSION = 4

SOMETHING = {"mean": (0.45,) * 3, "std": (0.225,) * 3, "sampling": "span"}


@fx.wrap  # one step of a traced graph, since its arithmetic cannot be traced
def slow_indices(frames: int, device: torch.device | None = None) -> Tensor:
    """The ceil(frames / 4) frames that the slow pathway sees: evenly spread, rounded down, first to last."""
    count = (frames - 1) // ALPHA + 1  # as many steps as leave a lateral connection
    return torch.arange(count, device=device) * (frames - 1) // max(count - 1, 1)


class Stem(nn.Module):
    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv3d(
            3, channels, (kernel, 7, 7), stride=(1, 2, 2), padding=(kernel // 2, 3, 3), bias=False
        )
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(x)), inplace=True)
        return F.max_pool3d(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))


class Bottleneck(nn.Module):
    """A block's convolution path: a spans ``kernel`` frames, b 3x3 pixels, c widens."""

    def __init__(self, in_channels: int, width: int, kernel: int, stride: int):
        super().__init__()
        out_channels = width * EXPANSION
        self.alteration = AlterationPoint(in_channels)
        self.a = nn.Conv3d(in_channels, width, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False)
        self.a_bn = nn.BatchNorm3d(width)
        self.b = nn.Conv3d(width, width, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1), bias=False)
        self.b_bn = nn.BatchNorm3d(width)
        self.c = nn.Conv3d(width, out_channels, 1, bias=False)
        self.c_bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.alteration(x)
        x = F.relu(self.a_bn(self.a(x)), inplace=True)
        x = F.relu(self.b_bn(self.b(x)), inplace=True)
        return self.c_bn(self.c(x))


class ResBlock(nn.Module):
    """branch1 is the shortcut (a projection only where the shape changes), branch2 the convolution path."""

    def __init__(self, in_channels: int, width: int, kernel: int, stride: int):
        super().__init__()
        out_channels = width * EXPANSION
        self.projects = stride != 1 or in_channels != out_channels
        if self.projects:
            self.branch1 = nn.Conv3d(in_channels, out_channels, 1, (1, stride, stride), bias=False)
            self.branch1_bn = nn.BatchNorm3d(out_channels)
        self.branch2 = Bottleneck(in_channels, width, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.branch1_bn(self.branch1(x)) if self.projects else x
        return F.relu(self.branch2(x) + shortcut, inplace=True)


class Pathways(nn.ModuleDict):
    """The modules of one stage, named ``pathway0_...`` (slow) and ``pathway1_...`` (fast) as released."""

    def forward(self, slow: Tensor, fast: Tensor) -> tuple[Tensor, Tensor]:
        for name, module in self.items():
            if name.startswith("pathway0"):
                slow = module(slow)
            else:
                fast = module(fast)
        return slow, fast


class Lateral(nn.Module):
    """Lateral connection: the fast features, brought to the slow frame rate, behind the slow channels."""

    def __init__(self, fast_channels: int):
        super().__init__()
        out_channels = fast_channels * FUSION_RATIO
        self.conv_f2s = nn.Conv3d(
            fast_channels,
            out_channels,
            (FUSION_KERNEL, 1, 1),
            stride=(ALPHA, 1, 1),
            padding=(FUSION_KERNEL // 2, 0, 0),
            bias=False,
        )
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        return torch.cat([slow, F.relu(self.bn(self.conv_f2s(fast)))], 1)


class Head(nn.Module):
    def __init__(self, channels: int, num_classes: int, dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(channels, num_classes)

    def forward(self, slow: Tensor, fast: Tensor) -> Tensor:
        x = torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], 1)
        return self.projection(self.dropout(x))


class SlowFast(nn.Module):
    """Clip ``(B, 3, T, H, W)`` -> logits ``(B, num_classes)``.

    ``width`` is the channels of the slow pathway's stem; the fast pathway has 1 / ``beta`` of them.
    """

    def __init__(
        self,
        layers: tuple[int, int, int, int],
        num_classes: int,
        width: int = 64,
        beta: int = 8,
        dropout: float = 0.5,
    ):
        super().__init__()
        widths = (width, width // beta)
        self.s1 = Pathways({f"pathway{p}_stem": Stem(widths[p], KERNELS[p][0]) for p in (0, 1)})
        slow, fast = widths
        for i, depth in enumerate(layers):
            self.add_module(f"s{i + 1}_fuse", Lateral(fast))
            channels = [slow + fast * FUSION_RATIO, fast]
            stage = Pathways()
            for p in (0, 1):
                for j in range(depth):
                    stride = 2 if i > 0 and j == 0 else 1
                    block = ResBlock(channels[p], widths[p] << i, KERNELS[p][i + 1], stride)
                    stage[f"pathway{p}_res{j}"] = block
                    channels[p] = (widths[p] << i) * EXPANSION
            self.add_module(f"s{i + 2}", stage)
            slow, fast = channels
        self.head = Head(slow + fast, num_classes, dropout)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.c_bn.weight)  # every block starts as its shortcut
        nn.init.normal_(self.head.projection.weight, std=0.01)
        nn.init.zeros_(self.head.projection.bias)

    def forward(self, clip: Tensor) -> Tensor:
        slow, fast = clip[:, :, slow_indices(clip.shape[2], clip.device)], clip
        slow, fast = self.s1(slow, fast)
        slow, fast = self.s2(self.s1_fuse(slow, fast), fast)
        slow, fast = self.s3(self.s2_fuse(slow, fast), fast)
        slow, fast = self.s4(self.s3_fuse(slow, fast), fast)
        slow, fast = self.s5(self.s4_fuse(slow, fast), fast)
        return self.head(slow, fast)


@register(frames=(16, 32, 64), preprocess=Preprocess(size=256, resize=256, **SOMETHING))
def slowfast_resnet50(num_classes: int, **options) -> SlowFast:
    return SlowFast((3, 4, 6, 3), num_classes, **options)


@register(frames=(16, 32, 64), preprocess=Preprocess(size=64, resize=64, **SOMETHING))
def slowfast_tiny(num_classes: int, **options) -> SlowFast:
    """About 0.4M parameters, for clips of 64 to 112 pixels on a CPU; the fast pathway is half as wide."""
    return SlowFast((1, 1, 1, 1), num_classes, **{"width": 8, "beta": 2, "dropout": 0.2} | options)
