"""Deployed networks compute what the originals do, from fewer layers, and leave the originals alone."""

import copy
import shutil
import threading

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

import ffn
from ffn.fold import fold, trace

TINY = ffn.list_models("*_tiny")
LARGE = sorted({*ffn.list_models()} - {*TINY})
GONE = (_BatchNorm, ffn.WeightAlteration, nn.Dropout)
EXACT = 1e-5  # of the largest logit


@torch.no_grad()
def randomised(model, seed=0):
    """``model`` with norms and alterations far from doing nothing, so that a wrong fold shows."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, (_BatchNorm, nn.LayerNorm, nn.GroupNorm)) and module.weight is not None:
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
        if isinstance(module, ffn.WeightAlteration):
            module.weight.normal_(std=0.3)
    return model.eval()


@torch.no_grad()
def distance(deployed, original, clip):
    expected = original(clip)
    got = deployed(clip)
    assert got.dtype == torch.float32 and got.shape == expected.shape
    return ((got - expected).abs().max() / expected.abs().max()).item()


def clip(frames, batch=2, size=48):
    return torch.randn(batch, 3, frames, size, size)


def kinds(module):
    return {type(m) for m in module.modules()}


# Registered networks


@pytest.mark.parametrize("name", TINY)
def test_frame_flexible(name):
    model = randomised(ffn.create_model(name, 7))
    for frames in model.frames:
        deployed = ffn.deploy(model, frames)
        assert not [m for m in deployed.modules() if isinstance(m, GONE)]
        for batch in (1, 2):
            assert distance(deployed, model, clip(frames, batch)) < EXACT


@pytest.mark.parametrize("name", TINY)
def test_plain_at_any_frame_count_and_shape(name):
    model = randomised(ffn.create_backbone(name, 7))
    deployed = ffn.deploy(model, 5)
    for frames, height, width in ((5, 48, 64), (1, 40, 40), (8, 64, 48)):
        assert distance(deployed, model, torch.randn(2, 3, frames, height, width)) < EXACT


@pytest.mark.parametrize("name", TINY)
def test_bfloat16_is_close(name):
    model = randomised(ffn.create_model(name, 7))
    assert distance(ffn.deploy(model, 4, torch.bfloat16), model, clip(4)) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_networks(name):
    model = randomised(ffn.create_model(name, 7))
    exact = copy.deepcopy(model).double()

    def truth(x):
        return exact(x.double()).float()

    for frames in model.frames:
        deployed, x = ffn.deploy(model, frames), clip(frames, 1, 64)
        assert not [m for m in deployed.modules() if isinstance(m, GONE)]
        assert distance(ffn.deploy(exact, frames, torch.float64), truth, x) < 1e-6
        # Deep random networks amplify rounding: that much of it is the original's own.
        assert distance(deployed, truth, x) < max(EXACT, 4 * distance(model, truth, x))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="PyTorch's compiler needs a C++ compiler")
def test_compiled():
    model = randomised(ffn.create_model("tsm_tiny", 7))
    assert distance(ffn.deploy(model, 4, compile=True), model, clip(4)) < EXACT


def test_the_original_is_left_alone():
    model = randomised(ffn.create_model("uniformer_tiny", 7)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ffn.deploy(model, 4)(clip(4))
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert any(isinstance(m, _BatchNorm) for m in model.modules())


def test_each_frequency_has_its_own():
    model = randomised(ffn.create_model("tsm_tiny", 7))
    x = clip(4)
    assert distance(ffn.deploy(model, 5), model, x) < EXACT  # 5 frames are served by frequency 4
    assert distance(ffn.deploy(model, 16), model, x) > 0.01


def test_impossible_requests():
    model = ffn.create_backbone("tsm_tiny", 7)
    with pytest.raises(ValueError, match="at least 1 frame"):
        ffn.deploy(model, 0)
    with pytest.raises(ValueError, match=r"not torch\.int8"):
        ffn.deploy(model, 4, torch.int8)


# Networks of other people


@pytest.mark.parametrize("name", ["mobilenetv2_035", "convnext_atto"])  # norms that also hold an activation
def test_image_networks_with_norms_of_their_own(name):
    timm = pytest.importorskip("timm")
    model = randomised(ffn.FrameFlexible(ffn.PerFrame(timm.create_model(name, num_classes=5)), (2, 4)))
    assert distance(ffn.deploy(model, 4), model, clip(4, size=64)) < EXACT


def test_foreign_network_made_frame_flexible():
    model = randomised(ffn.FrameFlexible(torchvision.models.video.r3d_18(num_classes=7), (2, 8)))
    for frames in model.frames:
        deployed = ffn.deploy(model, frames)
        assert not [m for m in deployed.modules() if isinstance(m, GONE)]
        assert distance(deployed, model, clip(frames, 1)) < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mc3_18", "s3d", "swin3d_t"])
def test_foreign_networks(name):
    model = randomised(getattr(torchvision.models.video, name)(num_classes=7))
    deployed = ffn.deploy(model, 16)
    assert not [m for m in deployed.modules() if isinstance(m, GONE)]
    assert distance(deployed, model, clip(16, 1, 224 if name == "s3d" else 64)) < EXACT


class Head(nn.Module):
    """Puts ``body`` between a convolution and a classifier."""

    def __init__(self, body):
        super().__init__()
        self.stem, self.body, self.fc = nn.Conv3d(3, 8, 3, padding=1), body, nn.Linear(8, 7)

    def forward(self, x):
        return self.fc(self.body(F.relu(self.stem(x))).mean((2, 3, 4)))


def deployed_body(body):
    """The module types of ``body``, deployed, after a check that it computes the same."""
    model = randomised(Head(body))
    assert distance(ffn.deploy(model, 4), model, clip(4, 2, 12)) < EXACT
    return kinds(fold(model))


class Untraceable(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def conv(padding=1, **options):
    return nn.Conv3d(8, 8, 1 + 2 * padding, padding=padding, **options)


def test_what_cannot_be_folded_is_left():
    assert nn.GroupNorm in deployed_body(nn.Sequential(conv(), nn.GroupNorm(2, 8)))
    assert nn.InstanceNorm3d in deployed_body(nn.Sequential(nn.InstanceNorm3d(8), conv()))
    assert nn.BatchNorm3d in deployed_body(nn.Sequential(nn.ReLU(), nn.BatchNorm3d(8), conv()))  # zero padding
    assert nn.BatchNorm3d in deployed_body(nn.Sequential(conv(), nn.BatchNorm3d(8), Untraceable()))
    shared = nn.BatchNorm3d(8)
    assert nn.BatchNorm3d in deployed_body(nn.Sequential(conv(), shared, conv(), shared))


class Remembering(Untraceable):
    """Keeps what it once computed, and cannot be traced after that."""

    kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = x.new_ones(1)
        return super().forward(x * self.kept)


def test_a_trace_that_fails_leaves_nothing_behind():
    deployed_body(nn.Sequential(conv(), nn.BatchNorm3d(8), Remembering()))


class Standardised(nn.Conv3d):
    def forward(self, x):
        return super().forward(x) / self.weight.std()


class StandardisedWithin(nn.Conv3d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.std(), bias)


@pytest.mark.parametrize("layer", [Standardised, StandardisedWithin])
def test_convolutions_with_a_forward_of_their_own_are_left(layer):
    assert nn.BatchNorm3d in deployed_body(nn.Sequential(layer(8, 8, 3), nn.BatchNorm3d(8), nn.ReLU()))


class Tripled(nn.Identity):
    def forward(self, x):
        return x * 3


def doubled(module):
    module.register_forward_hook(lambda module, inputs, output: output * 2)
    return module


@pytest.mark.parametrize(
    "body",
    [
        nn.Sequential(doubled(conv()), nn.BatchNorm3d(8), nn.ReLU()),
        nn.Sequential(conv(), doubled(nn.BatchNorm3d(8)), nn.ReLU()),
        nn.Sequential(conv(), doubled(nn.ReLU())),
        nn.Sequential(conv(), doubled(nn.Identity())),
        nn.Sequential(conv(), Tripled()),
        nn.Sequential(nn.utils.parametrizations.spectral_norm(conv()), nn.BatchNorm3d(8)),
        nn.Sequential(nn.utils.spectral_norm(conv()), nn.BatchNorm3d(8)),
    ],
    ids=lambda body: ",".join(type(layer).__name__ for layer in body),
)
def test_layers_that_do_more_than_they_seem_are_left(body):
    deployed_body(body)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_rules(groups, bias):
    options = {"groups": groups, "bias": bias}
    before = ffn.WeightAlteration(8), conv(1, **options)
    around = nn.BatchNorm3d(8), conv(0, **options), nn.BatchNorm3d(8)
    for layers in (before, around, (*before, nn.ReLU(inplace=True), *around, nn.Dropout())):
        assert not deployed_body(nn.Sequential(*layers)) & {nn.BatchNorm3d, *GONE}


class Summing(nn.Module):
    """Sums that may, and sums that may not, be written over one of their terms."""

    def __init__(self, case):
        super().__init__()
        self.case, self.first, self.second, self.third = case, conv(), conv(0), conv()
        self.fourth, self.fifth = conv(0), conv()

    def forward(self, x):
        y = self.first(x)
        if self.case == "view":
            view = y.flatten(2)
            return F.relu(self.second(x) + y) + view.unflatten(2, x.shape[2:])
        if self.case == "later":
            return F.relu(self.second(x) + y) + self.third(y)
        if self.case == "before":
            z = self.third(y)
            return F.relu(self.second(z) + y)
        if self.case == "broadcast":
            pooled = F.max_pool3d(y, (4, 12, 12))
            return F.relu(self.second(x) + pooled)
        if self.case == "in place":
            z = y.relu_()
            z += self.second(x)
            return z + y
        x = F.gelu(self.second(y), approximate="tanh") + F.relu6(self.third(y))
        return F.gelu(self.fourth(x)) + F.silu(self.fifth(x))


@pytest.mark.parametrize("case", ["view", "later", "before", "broadcast", "in place", "activations"])
def test_sums_written_over_a_term(case):
    deployed_body(Summing(case))


def test_an_approximate_gelu_stays_approximate():
    deployed = ffn.deploy(randomised(Head(Summing("activations"))), 4)
    assert deployed.network.code.count("nn.gelu") == 1 and "approximate = 'tanh'" in deployed.network.code
    assert nn.GELU in kinds(ffn.deploy(randomised(Head(nn.Sequential(conv(), nn.GELU("tanh")))), 4))
    assert nn.GELU not in kinds(ffn.deploy(randomised(Head(nn.Sequential(conv(), nn.GELU()))), 4))


def test_depthwise_residual():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.alteration, self.conv = ffn.WeightAlteration(8), conv(1, groups=8)

        def forward(self, x):
            x = self.alteration(x)
            return x + self.conv(x)

    model = randomised(Head(Residual()))
    assert distance(ffn.deploy(model, 4), model, clip(4, 2, 12)) < EXACT
    folded = fold(model)
    assert ffn.WeightAlteration not in kinds(folded) and "add" not in folded.code


# Threads, and the library's own use


def test_threads_deploy_and_predict_at_once():
    models = [randomised(ffn.create_model(name, 7)) for name in ("tsm_tiny", "uniformer_tiny")]
    clips = {frames: clip(frames, 1) for frames in (4, 8)}
    wrong = []

    def work(model, frames):
        for _ in range(2):
            if distance(ffn.deploy(model, frames), model, clips[frames]) > EXACT:
                wrong.append(frames)

    threads = [threading.Thread(target=work, args=(m, f)) for m in models for f in clips]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


class Interrupted(nn.Module):
    """Runs ``other`` in another thread while it runs, or is traced, itself."""

    def __init__(self, other):
        super().__init__()
        self.others, self.seen = [other], []  # not modules of this network

    def forward(self, x):
        thread = threading.Thread(target=lambda: self.seen.append(self.others[0](torch.ones(1, 3, 2, 32, 32))))
        thread.start()
        thread.join()
        return x + 1


def test_networks_run_while_another_is_traced():
    other = randomised(ffn.create_backbone("tsm_tiny", 7))
    body = Interrupted(other)
    trace(Head(body))  # torch.fx patches nn.Module while it traces
    assert len(body.seen) == 1 and torch.equal(body.seen[0], other(torch.ones(1, 3, 2, 32, 32)))


def test_predictor_deploys_once_for_each_frequency():
    model = randomised(ffn.create_model("tsm_tiny", 7))
    predictor, plain = ffn.Predictor(model), ffn.Predictor(model, deploy=False)
    found = []
    threads = [threading.Thread(target=lambda: found.append(predictor.network(4))) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len({*map(id, found)}) == 1 and isinstance(found[0], ffn.Deployed)
    assert predictor.network(5) is found[0] and predictor.network(8) is not found[0]
    assert plain.network(4) is model
    assert distance(predictor.network(16), plain.network(16), clip(16)) < EXACT
