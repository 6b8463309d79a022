"""FrameFlexible: what branches share, what they own, and which one serves a frame count."""

import copy
import threading

import pytest
import torch
from torch import nn

import ffn
from ffn.flexible import NORMS, WeightAlteration


class Small(nn.Module):
    """A network of a user's own: one convolution, one norm, a buffer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm3d(8)
        self.fc = nn.Linear(8, 5)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, clip):
        return self.fc(self.norm(self.conv(clip)).mean((2, 3, 4)) * self.scale)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "plain", "flexible"),
    [("tsm_resnet50", 23_864_558, 24_010_158)],
)
def test_parameter_counts(name, plain, flexible):
    assert count(ffn.create_backbone(name, 174)) == plain
    assert count(ffn.create_model(name, 174, (4, 8, 16))) == flexible


def test_tiny_is_tiny():
    assert 0.3e6 < count(ffn.create_model("tsm_tiny", 21)) < 0.5e6


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ((4, 8, 16), {1: 4, 5: 4, 6: 8, 7: 8, 11: 8, 12: 16, 13: 16, 100: 16}),
        ((16,), {1: 16, 99: 16}),
        ((3, 4), {3: 3, 4: 4}),
    ],
)
def test_nearest_frequency_and_ties_go_up(frames, expected):
    model = ffn.FrameFlexible(Small(), frames)
    assert {n: model.frequency_for(n) for n in expected} == expected


@pytest.mark.parametrize("frames", [(), (0, 4), (4, 4)])
def test_impossible_frequencies_are_refused(frames):
    with pytest.raises(ValueError, match="frames must be"):
        ffn.FrameFlexible(Small(), frames)


def test_a_clip_needs_a_frame():
    with pytest.raises(ValueError, match="at least 1 frame"):
        ffn.FrameFlexible(Small()).frequency_for(0)


def test_forward_goes_through_the_branch_of_its_frame_count():
    model = ffn.create_model("tsm_tiny", 5, (2, 6)).eval()
    nn.init.normal_(model.branches["6"].bn1.bias)
    for frames in (1, 2, 3, 4, 5, 9):
        clip = torch.randn(2, 3, frames, 32, 32)
        assert torch.equal(model(clip), model.branch(frames)(clip))
    assert model.branch(4) is model.branches["6"] and model.branch(3) is model.branches["2"]


def assert_shared(model):
    """Branches share all but norms and alterations, and own those."""
    first, *others = (dict(branch.named_modules()) for branch in model.branches.values())
    for modules in others:
        for name, module in modules.items():
            private = isinstance(module, (*NORMS, WeightAlteration))
            for key, tensor in module._parameters.items() | module._buffers.items():
                same = (first[name]._parameters | first[name]._buffers)[key] is tensor
                assert tensor is None or same != private, f"{name}.{key}"


@pytest.mark.parametrize("build", [lambda: ffn.create_model("tsm_tiny", 5), lambda: ffn.FrameFlexible(Small())])
def test_sharing_survives(build, tmp_path):
    model = build()
    assert_shared(model)
    assert_shared(model.to(torch.float64))
    assert_shared(copy.deepcopy(model))
    model.load_state_dict(build().state_dict())
    assert_shared(model)


def test_norms_start_as_copies_of_the_backbones():
    backbone = Small()
    nn.init.normal_(backbone.norm.weight)
    backbone.norm.running_mean += 1
    model = ffn.FrameFlexible(backbone, (2, 4))
    for branch in model.branches.values():
        assert (
            torch.equal(branch.norm.weight, backbone.norm.weight)
            and branch.norm.weight is not backbone.norm.weight
        )
        assert torch.equal(branch.norm.running_mean, backbone.norm.running_mean)


def test_alteration_scales_channels():
    alteration = WeightAlteration(3)
    alteration.weight.data = torch.tensor([0.0, 1.0, -1.0])
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(alteration(x), x * torch.tensor([1.0, 2.0, 0.0]).view(3, 1, 1, 1))
    assert WeightAlteration(10_000).weight.std().item() == pytest.approx(1e-3, rel=0.05)


def test_ablations():
    flexible = count(ffn.create_model("tsm_tiny", 5))
    plain = count(ffn.create_backbone("tsm_tiny", 5))
    norms = sum(
        p.numel()
        for m in ffn.create_backbone("tsm_tiny", 5).modules()
        if isinstance(m, NORMS)
        for p in m.parameters()
    )
    without_norms = count(ffn.create_model("tsm_tiny", 5, private_norms=False))
    without_alteration = count(ffn.create_model("tsm_tiny", 5, alteration=False))
    assert flexible - without_norms == 2 * norms
    assert without_alteration == plain + 2 * norms
    assert count(ffn.create_model("tsm_tiny", 5, share_weights=False, alteration=False)) == 3 * plain


def test_copy_private():
    model = ffn.create_model("tsm_tiny", 5, (4, 8)).eval()
    for tensor in model.branches["4"].bn1.state_dict().values():
        tensor.add_(1)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert not torch.allclose(model.branches["4"](clip), model.branches["8"](clip))
    model.copy_private(4, 8)
    assert torch.equal(model.branches["4"](clip), model.branches["8"](clip))
    assert_shared(model)

    with pytest.raises(ValueError, match="no branch for 5 frames"):
        model.copy_private(4, 5)


MOVES = {
    "to another type": lambda model: model.half(),
    "assigned": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True),
    "from the meta device": lambda model: model.to("meta").to_empty(device="cpu"),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_branches_go_on_sharing(move):
    model = ffn.FrameFlexible(Small(), (4, 8))
    model.branches["4"].head = nn.Sequential(nn.Linear(5, 5))  # a user's own, in one branch
    before = count(model)
    move(model)
    assert count(model) == before
    assert model.branches["8"].scale is model.branches["4"].scale


def test_a_registered_network_that_was_wrapped_is_known_by_name(tmp_path):
    options = {"private_norms": False, "alteration": ["layer1.*.conv1"]}
    model = ffn.FrameFlexible(ffn.create_backbone("tsm_tiny", 5), (4, 8), **options).eval()
    assert model.spec == ffn.create_model("tsm_tiny", 5, (4, 8), **options).spec
    ffn.save(model, tmp_path / "net.safetensors")
    clip = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(ffn.load(tmp_path / "net.safetensors")(clip), model(clip))


def test_threads_at_different_frame_counts_do_not_disturb_each_other():
    model = ffn.create_model("tsm_tiny", 5, (2, 8)).eval()
    nn.init.normal_(model.branches["8"].bn1.weight)
    clips = {frames: torch.randn(1, 3, frames, 48, 48) for frames in (2, 8)}
    with torch.inference_mode():
        alone = {frames: model(clip) for frames, clip in clips.items()}
    wrong = []

    @torch.inference_mode()
    def work(frames):
        for _ in range(30):
            if not torch.equal(model(clips[frames]), alone[frames]):
                wrong.append(frames)

    threads = [threading.Thread(target=work, args=(frames,)) for frames in (2, 8, 2, 8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong
