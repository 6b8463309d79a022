"""PerFrame: image networks of others, with temporal shift, as video networks."""

from __future__ import annotations

import threading

import pytest
import torch
from networks import altered_channels, small_resnet
from torch import nn
from torch.utils.checkpoint import checkpoint

import ffn
from ffn import FrameFlexible, PerFrame
from ffn.backbones.per_frame import Shifted
from ffn.backbones.tsm import TSM, BasicBlock


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
