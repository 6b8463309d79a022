"""Where weight alterations go in a network: by rule, by the network's own points, where the caller says."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import altered_channels, small_resnet
from torchvision import models

import ffn
from ffn.alteration import WeightAlteration, alteration_places, first_convolutions
from ffn.flexible import FrameFlexible


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (models.resnet50, 16),
        (models.mobilenet_v2, 10),  # as many as TSM shifts in it
        (models.efficientnet_b0, 9),
        (models.convnext_tiny, 18),
        (models.vit_b_32, 0),
        (lambda: ffn.create_backbone("tea_tiny", 5), 0),  # unaltered, as published
    ],
)
def test_the_rule(build, expected):
    with torch.device("meta"):
        network = build()
    found = first_convolutions(network)
    assert len(found) == expected
    assert not any("downsample" in name for name in found)


def test_a_networks_own_points_come_before_the_rule():
    backbone = ffn.create_backbone("tsm_tiny", 5)
    blocks = ("layer1.0", "layer2.0", "layer3.0", "layer3.1", "layer4.0")
    assert alteration_places(backbone, True) == tuple(f"{block}.alteration" for block in blocks)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["layer1.0.conv1", "fc"], ("layer1.0.conv1", "fc")),
        ("layer*.conv2", tuple(f"layer{i}.0.conv2" for i in (1, 2, 3, 4))),
        (["layer2"], ("layer2.0",)),  # a Sequential's input is its first layer's
        (lambda name, module: getattr(module, "stride", 0) == (2, 2) and "downsample" in name, 3),
        ([], ()),
        (False, ()),
    ],
)
def test_the_caller_says_where(where, expected):
    torch.manual_seed(0)
    backbone = small_resnet(num_classes=5)  # an image network is one, too
    model = FrameFlexible(backbone, (2, 4), alteration=where).eval()
    assert model.alterations == expected or len(model.alterations) == expected
    assert len(altered_channels(model.branches["2"])) == len(model.alterations)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.branches["4"](images)
        for alteration in model.branches["4"].modules():
            if isinstance(alteration, WeightAlteration):
                alteration.weight.fill_(0.5)
        assert torch.equal(model.branches["4"](images), expected) == (not model.alterations)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (["layer1.0.conv9"], r"ResNet has no module 'layer1.0.conv9'"),
        (["layer1.0.conv1", "block*"], r"no module 'block\*'"),
        (lambda name, module: False, "picks no module"),
        (["maxpool"], "MaxPool2d cannot be altered"),
    ],
)
def test_impossible_places_are_refused(where, message):
    with pytest.raises(ValueError, match=message):
        FrameFlexible(small_resnet(), alteration=where)


@pytest.mark.parametrize("where", [["layer1.0.conv1", "layer4*conv2"], lambda name, module: name == "fc", []])
def test_places_round_trip_through_save_and_load(where, tmp_path):
    model = ffn.create_model("tsm_tiny", 5, (2, 4), alteration=where).eval()
    ffn.save(model, tmp_path / "net.safetensors")
    again = ffn.load(tmp_path / "net.safetensors")
    assert again.alterations == model.alterations and again.spec == model.spec
    clip = torch.randn(1, 3, 3, 32, 32)
    assert torch.equal(again(clip), model(clip))


def test_alterations_survive_copies_and_conversion():
    model = FrameFlexible(small_resnet(num_classes=5), (2, 4))
    for other in (copy.deepcopy(model), copy.deepcopy(model).double()):
        low, high = (branch.layer1[0].conv1 for branch in other.branches.values())
        assert low.layer.weight is high.layer.weight
        assert low.alteration.weight is not high.alteration.weight
        assert low.alteration.weight.dtype == low.layer.weight.dtype
    fresh = FrameFlexible(small_resnet(num_classes=5), (2, 4))
    fresh.load_state_dict(model.state_dict())
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
