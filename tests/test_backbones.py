"""What every backbone promises: any number of frames, no state, clips apart from one another."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from ffn import FrameFlexible, WeightAlteration, create_backbone, list_models
from ffn.flexible import NORMS, AlterationPoint

SIZE = 64


@pytest.fixture(scope="module", params=list_models("*_tiny"))
def backbone(request) -> nn.Module:
    """In evaluation mode and away from its initial weights, of which some are zero."""
    torch.manual_seed(0)
    model = create_backbone(request.param, 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def clips(batch: int, frames: int) -> Tensor:
    return torch.randn(batch, 3, frames, SIZE, SIZE, generator=torch.Generator().manual_seed(frames))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_there_is_a_tiny_network_for_every_family():
    assert {"slowfast_tiny", "tea_tiny", "tsm_tiny", "uniformer_tiny"} <= set(list_models("*_tiny"))


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8])
def test_any_number_of_frames_each_clip_for_itself(backbone, frames):
    batch = clips(3, frames)
    with torch.inference_mode():
        together = backbone(batch)
        alone = torch.cat([backbone(clip) for clip in batch.split(1)])
    assert together.shape == (3, 5) and together.isfinite().all()
    assert not torch.equal(together[0], together[1])
    assert_close(together, alone, 1e-5)


def test_holds_no_state_between_clips(backbone):
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with torch.inference_mode():
        first = backbone(clips(1, 8))
        backbone(clips(2, 3))
        assert torch.equal(backbone(clips(1, 8)), first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_order_of_frames_matters(backbone):
    with torch.inference_mode():
        forwards, backwards = backbone(clips(1, 8)), backbone(clips(1, 8).flip(2))
    assert (forwards - backwards).abs().max() > 1e-3 * forwards.abs().max()


def test_memory_layout_does_not_matter(backbone):
    network = copy.deepcopy(backbone)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    clip = clips(2, 4)
    last = clip.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    with torch.inference_mode():
        assert_close(network(last), backbone(clip), 1e-5)


def test_frame_flexible_wraps_it(backbone):
    def count(kinds) -> int:
        own = [p for m in backbone.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)]
        return sum(p.numel() for p in own)

    altered = sum(m.channels for m in backbone.modules() if isinstance(m, AlterationPoint))
    model = FrameFlexible(backbone, (2, 4, 8)).eval()
    total = sum(p.numel() for p in backbone.parameters()) + 2 * count(NORMS) + 3 * altered
    assert sum(p.numel() for p in model.parameters()) == total
    with torch.inference_mode():
        for frames, served_by in ((2, 2), (3, 4), (5, 4), (6, 8), (8, 8)):
            output = model(clips(1, frames))
            assert torch.equal(output, model.branches[str(served_by)](clips(1, frames)))
            assert_close(output, backbone(clips(1, frames)), 0.05)  # alterations start near the identity
        model.branches["4"].apply(lambda m: isinstance(m, NORMS) and m.bias.add_(1))
        assert not torch.equal(model(clips(1, 4)), backbone(clips(1, 4)))
        assert_close(model(clips(1, 8)), backbone(clips(1, 8)), 0.05)


def test_gradient_reaches_every_parameter(backbone):
    model = FrameFlexible(copy.deepcopy(backbone), (2, 4, 8)).eval()
    weights = torch.randn(5)  # a sum of logits alone has no gradient where logits are shifted together
    sum((model(clips(2, frames)) * weights).sum() for frames in model.frames).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without
    alterations = sum(isinstance(m, WeightAlteration) for m in model.modules())
    assert alterations == 3 * sum(isinstance(m, AlterationPoint) for m in backbone.modules())


def test_bfloat16_autocast(backbone):
    with torch.inference_mode():
        expected = backbone(clips(2, 5))
        with torch.autocast("cpu", torch.bfloat16):
            output = backbone(clips(2, 5))
    assert output.isfinite().all()
    assert_close(output.float(), expected, 0.1)
