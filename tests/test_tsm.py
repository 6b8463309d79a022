"""The temporal shift by hand, and TSM's independence of batch and memory layout."""

import pytest
import torch

import ffn
from ffn.backbones.tsm import temporal_shift


def test_shift_by_hand():
    # One pixel, 8 channels (fold 1), two clips of three frames; frame t of clip b holds 10 b + t.
    x = torch.tensor([[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]]).reshape(6, 1, 1, 1).expand(6, 8, 1, 1).clone()
    out = temporal_shift(x, 3)[:, :, 0, 0]
    assert out[:, 0].tolist() == [2, 3, 0, 12, 13, 0]  # from the next frame, zero at the end of each clip
    assert out[:, 1].tolist() == [0, 1, 2, 0, 11, 12]  # from the one before
    assert torch.equal(out[:, 2:], x[:, 2:, 0, 0])


def test_shift_keeps_the_memory_layout():
    x = torch.randn(4, 16, 6, 6).to(memory_format=torch.channels_last)
    out = temporal_shift(x, 2)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, temporal_shift(x.contiguous(), 2))


def test_shift_of_one_frame_brings_zeros():
    x = torch.ones(2, 8, 1, 1)
    assert temporal_shift(x, 1)[:, :2].abs().sum() == 0


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 16])
def test_any_number_of_frames(frames):
    model = ffn.create_backbone("tsm_tiny", 5).eval()
    assert model(torch.randn(2, 3, frames, 48, 64)).shape == (2, 5)


def test_clips_of_a_batch_do_not_mix():
    model = ffn.create_backbone("tsm_tiny", 5).eval()
    clips = torch.randn(3, 3, 4, 48, 48)
    together = model(clips)
    alone = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone)


def test_unknown_network_names_the_known_ones():
    with pytest.raises(ValueError, match="tsm_tiny"):
        ffn.create_backbone("tsm_huge", 5)
    assert ffn.list_models("tsm_r*") == ["tsm_resnet101", "tsm_resnet18", "tsm_resnet50"]
