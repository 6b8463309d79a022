"""Small networks of other people, and what was put into them."""

from __future__ import annotations

from torchvision import models

from ffn.alteration import WeightAlteration


def altered_channels(branch) -> list[int]:
    return [m.weight.numel() for m in branch.modules() if isinstance(m, WeightAlteration)]


def small_resnet(**options):
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], **options)
