"""Starting points: each layout gives the network it was of, and the report says what became of the rest."""

from __future__ import annotations

import io
import os
import pickle
import re
import warnings

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from test_released import Malice, released_form, tiny
from torch import nn

import ffn
from ffn import CheckpointError, FrameFlexible, create_backbone, create_model
from ffn.flexible import NORMS
from ffn.pretrained import LAYOUTS, STARTS, _ours, load_pretrained

FAMILIES = ("tsm", "tea", "slowfast", "uniformer")


def randomised(model: nn.Module) -> nn.Module:
    """The network with norms and biases of its own too; deep ones stay finite."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model.eval()


def equal(model: nn.Module, other: nn.Module, besides: str = r"(?!)") -> bool:
    """Whether the tensors of two branches agree, apart from those whose name the pattern matches."""
    state, others = model.state_dict(), other.state_dict()
    names = [name for name in state if not re.search(besides, name)]
    return len(names) > 3 and all(torch.equal(state[name], others[name]) for name in names)


def refusal(*arguments) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(*arguments)
    message = str(caught.value)
    assert message and "\n" not in message and ". " not in message
    return message


# Networks of other people: the same outputs


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_torchvision_resnet_gives_its_own_outputs(depth):
    theirs = randomised(getattr(torchvision.models, f"resnet{depth}")())
    with torch.no_grad():  # on a single frame, the shift leaves zeros in a quarter of each block's input
        for layer in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
            for block in layer:
                block.conv1.weight[:, : block.conv1.in_channels // 8 * 2] = 0
    ours = create_backbone(f"tsm_resnet{depth}", 1000).eval()
    report = load_pretrained(ours, theirs.state_dict())
    assert not report.skipped and not report.initialised and not report.inflated
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image.unsqueeze(2)), theirs(image), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_timm_res2net_gives_its_own_outputs():
    timm = pytest.importorskip("timm")
    theirs = randomised(timm.create_model("res2net50_26w_4s"))
    with torch.no_grad():  # on a single frame, the fourth chunk's temporal convolution leaves zeros
        for name, module in theirs.named_modules():
            if name.endswith(".conv3"):
                module.weight[:, module.in_channels // 4 * 3 :] = 0
    ours = create_backbone("tea_resnet50", 1000).eval()
    report = load_pretrained(ours, theirs.state_dict())
    assert report.layout == "Res2Net" and not report.skipped
    assert all(re.search(r"\.(me|shifts)\.", name) for name in report.initialised)
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image.unsqueeze(2)), theirs(image), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_pytorchvideo_slowfast_gives_its_own_outputs():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its age
        create_slowfast = pytest.importorskip("pytorchvideo.models.slowfast").create_slowfast
    theirs = create_slowfast(
        model_num_class=7,
        slowfast_fusion_conv_kernel_size=(7, 1, 1),  # as their slowfast_r50
        head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2)),  # for a small clip
    )
    theirs = randomised(theirs)
    ours = create_backbone("slowfast_resnet50", 7).eval()
    report = load_pretrained(ours, {"model_state": theirs.state_dict()})
    assert not report.skipped and not report.initialised
    assert len(report.loaded) == len(ours.state_dict())
    clip = torch.randn(1, 3, 8, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(clip), theirs([clip[:, :, [0, 7]], clip]), rtol=1e-4, atol=1e-5)


# PySlowFast's model zoo: Caffe2


def caffe2_name(name: str) -> str:
    """The name that Caffe2's SlowFast gives to one of our tensors."""
    if name.startswith("head"):
        return {"weight": "pred_w", "bias": "pred_b"}[name.rpartition(".")[2]]
    prefix = "" if "pathway0" in name else "t_"
    module, _, kind = name.rpartition(".")
    if stem := re.fullmatch(r"s1\.pathway\d_stem\.(conv|bn)", module):
        module = "conv1" if stem[1] == "conv" else "res_conv1_bn"
    elif lateral := re.fullmatch(r"s(\d)_fuse\.(conv_f2s|bn)", module):
        module = "pool1" if lateral[1] == "1" else f"res{lateral[1]}_0_branch2c_bn"
        module += "_subsample" if lateral[2] == "conv_f2s" else "_subsample_bn"
    else:
        module = re.sub(r"s(\d)\.pathway\d_res(\d+)\.", r"res\1_\2_", module)
        module = module.replace("branch2.", "branch2")
    norm = module.endswith("bn")
    kinds = {"weight": "s" if norm else "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    return f"{prefix}{module}_{kinds[kind]}"


@pytest.fixture
def caffe2(tmp_path):
    source = randomised(create_backbone("slowfast_tiny", 6))
    state = {name: t for name, t in source.state_dict().items() if "num_batches" not in name}
    blobs = {caffe2_name(name): tensor.numpy() for name, tensor in state.items()}
    blobs |= {"conv1_w_momentum": np.zeros(3, np.float32), "lr": np.zeros(1), "model_iter": np.zeros(1, int)}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return source, tmp_path / "zoo.pkl"


def test_caffe2_slowfast(caffe2):
    source, path = caffe2
    model = create_model("slowfast_tiny", 6)
    report = load_pretrained(model, path)
    assert all(equal(branch, source, "alteration|num_batches") for branch in model.branches.values())
    assert report.skipped == dict.fromkeys(["conv1_w_momentum", "lr", "model_iter"], "of the optimiser")
    assert all(re.search("alteration|num_batches", name) for name in report.initialised)


@pytest.mark.parametrize(
    "theirs, ours",
    [  # as PySlowFast itself prints when it reads such files
        ("conv1_w", "s1.pathway0_stem.conv.weight"),
        ("t_conv1_w", "s1.pathway1_stem.conv.weight"),
        ("res_conv1_bn_s", "s1.pathway0_stem.bn.weight"),
        ("t_res_conv1_bn_riv", "s1.pathway1_stem.bn.running_var"),
        ("t_pool1_subsample_w", "s1_fuse.conv_f2s.weight"),
        ("t_pool1_subsample_bn_s", "s1_fuse.bn.weight"),
        ("t_res4_22_branch2c_bn_subsample_w", "s4_fuse.conv_f2s.weight"),
        ("t_res4_22_branch2c_bn_subsample_bn_rm", "s4_fuse.bn.running_mean"),
        ("res4_19_branch2c_bn_riv", "s4.pathway0_res19.branch2.c_bn.running_var"),
        ("t_res3_2_branch2b_bn_rm", "s3.pathway1_res2.branch2.b_bn.running_mean"),
        ("t_res2_1_branch2b_w", "s2.pathway1_res1.branch2.b.weight"),
        ("t_res5_0_branch1_bn_b", "s5.pathway1_res0.branch1_bn.bias"),
        ("res3_0_branch1_w", "s3.pathway0_res0.branch1.weight"),
        ("pred_w", "head.projection.weight"),
        ("pred_b", "head.projection.bias"),
    ],
)
def test_caffe2_names(theirs, ours):
    assert _ours(theirs, next(layout for layout in LAYOUTS if "Caffe2" in layout.name))[0] == ours


def python2_pickle(array: np.ndarray, name: bytes) -> bytes:
    """``{"blobs": {name: array}}`` as Python 2 pickles it: strings of bytes, numpy where it was then."""

    def string(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    shape = b"(" + b"".join(b"K" + bytes([n]) for n in array.shape) + b"t"
    dtype = b"cnumpy\ndtype\n(" + string(b"f4") + b"K\x00K\x01tR(K\x03" + string(b"<") + b"NNNJ"
    dtype += b"\xff\xff\xff\xff" * 1 + b"J\xff\xff\xff\xffK\x00tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + string(b"b") + b"tR"
    state = b"(K\x01" + shape + dtype + b"I00\n" + string(array.tobytes()) + b"tb"
    return b"\x80\x02}" + string(b"blobs") + b"}" + string(name) + made + state + b"ss."


def test_a_pickle_of_python_2(tmp_path):
    """The real files were written by Python 2, where an array's bytes are a string."""
    model = create_backbone("slowfast_tiny", 6)
    array = np.arange(200, 200 + 6 * 8, dtype=np.float32).reshape(6, 8)  # bytes beyond ASCII too
    (tmp_path / "old.pkl").write_bytes(python2_pickle(array, b"t_res2_0_branch2a_w"))
    expected = r"t_res2_0_branch2a_w is \(6, 8\) in the file and \(4, 4, 3, 1, 1\)"
    assert re.search(expected, refusal(model, tmp_path / "old.pkl"))


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_damaged_caffe2_file(caffe2, kept):
    _, path = caffe2
    path.write_bytes(path.read_bytes()[:kept])
    assert "damaged" in refusal(create_backbone("slowfast_tiny", 6), path)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_malicious_pickle_is_not_executed(tmp_path, suffix):
    path, trace = tmp_path / f"file{suffix}", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"blobs": {"conv1_w": Malice(trace)}}, protocol=2))
    message = refusal(create_backbone("slowfast_tiny", 6), path)
    assert not trace.exists()
    assert suffix == ".pth" or "mkdir" in message
    pickle.loads(path.read_bytes())  # the trap is real
    assert trace.exists()


def test_a_pkl_file_of_pytorch(tmp_path):
    source, model = randomised(create_backbone("tsm_tiny", 5)), create_backbone("tsm_tiny", 5)
    for zipped in (True, False):
        torch.save(source.state_dict(), tmp_path / "file.pkl", _use_new_zipfile_serialization=zipped)
        load_pretrained(model, tmp_path / "file.pkl")
        assert equal(model, source)


# UniFormer: image networks


def test_uniformer_of_images_is_inflated():
    source = randomised(create_backbone("uniformer_tiny", 5))
    image = {n: t.mean(2) if t.dim() == 5 else t for n, t in source.state_dict().items()}
    model = create_model("uniformer_tiny", 5)
    report = load_pretrained(model, {"model": image})
    for name, tensor in model.branch(16).state_dict().items():
        if name not in image:
            assert "alteration" in name
        elif tensor.dim() == 5:  # each frame has the same share
            assert torch.equal(tensor, (image[name] / tensor.shape[2]).unsqueeze(2).expand_as(tensor))
        else:
            assert torch.equal(tensor, image[name])
    assert "patch_embed1.proj.weight" in report.inflated and "inflated" in str(report)


# Released networks and ours


@pytest.mark.parametrize("family", FAMILIES)
def test_released_plain_networks_fill_every_branch(family):
    source, model = tiny(family, False), create_model(f"{family}_tiny", 5)
    report = load_pretrained(model, released_form(source))
    assert all(equal(branch, source, "alteration") for branch in model.branches.values())
    assert not report.skipped and all("alteration" in name for name in report.initialised)


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_frame_flexible_file_the_highest_frequency(family, tmp_path):
    source = tiny(family, True)
    highest = source.branch(source.frames[-1])
    ffn.save(source, tmp_path / "ours.safetensors")
    for given in (released_form(source), tmp_path / "ours.safetensors"):
        model, plain = create_model(f"{family}_tiny", 5), create_backbone(f"{family}_tiny", 5)
        report = load_pretrained(model, given)
        assert all(equal(branch, highest) for branch in model.branches.values())
        assert set(report.skipped.values()) == {"of a lower frequency"}
        report = load_pretrained(plain, given)
        assert equal(plain, highest)
        assert ("the network has no weight alterations" in report.skipped.values()) == (family != "tea")


def test_the_original_tsm(tmp_path):
    source = randomised(create_backbone("tsm_tiny", 5))
    state = {
        "module." + re.sub(r"^(?!fc)", "base_model.", name).replace("fc.", "new_fc."): tensor
        for name, tensor in source.state_dict().items()
    }
    state = {re.sub(r"(layer\d\.\d\.conv1)", r"\1.net", name): tensor for name, tensor in state.items()}
    assert "module.base_model.layer1.0.conv1.net.weight" in state
    torch.save({"state_dict": state, "epoch": 50}, tmp_path / "tsm.pth.tar")
    model = create_model("tsm_tiny", 5)
    load_pretrained(model, str(tmp_path / "tsm.pth.tar"))
    assert all(equal(branch, source, "alteration") for branch in model.branches.values())


def test_any_network_from_its_own_names(tmp_path):
    def build(classes):
        layers = [nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(8, classes))

    source, model = randomised(build(4)), FrameFlexible(build(3), (2, 4))
    save_file(source.state_dict(), tmp_path / "theirs.safetensors")
    report = load_pretrained(model, tmp_path / "theirs.safetensors")
    assert all(equal(branch, source, r"^5\.") for branch in model.branches.values())
    assert report.layout == "the network's own names"
    assert set(report.initialised.values()) == {"head replaced: the file has 4 classes, the network 3"}


def test_an_image_network_behind_shifts_and_alterations():
    source = randomised(torchvision.models.resnet18(num_classes=6))
    model = FrameFlexible(ffn.PerFrame(torchvision.models.resnet18(num_classes=6)), (2, 4))
    report = load_pretrained(model, source.state_dict())
    assert (
        not report.skipped and report.loaded["network.layer1.0.conv1.layer.weight"] == "layer1.0.conv1.weight"
    )
    assert set(report.initialised.values()) == {"weight alterations: the file has none, they start near zero"}
    for branch in model.branches.values():
        assert torch.equal(branch.network.layer4[1].bn2.running_var, source.layer4[1].bn2.running_var)
    again = FrameFlexible(ffn.PerFrame(torchvision.models.resnet18(num_classes=6)), (2, 4))
    load_pretrained(again, model.state_dict())  # our names for it
    assert equal(again, model, r"branches\.2\..*alteration")


# The report


def test_private_norms_start_equal_and_the_rest_is_left_alone():
    model = create_model("tsm_resnet18", 174).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source = randomised(torchvision.models.resnet18())
    report = load_pretrained(model, source.state_dict())
    assert model.training
    for branch in model.branches.values():
        for name, module in branch.named_modules():
            if isinstance(module, NORMS):
                assert torch.equal(module.running_var, source.get_submodule(name).running_var)
    after = model.state_dict()
    for count in model.frames:
        for name in report.initialised:
            assert torch.equal(after[f"branches.{count}.{name}"], before[f"branches.{count}.{name}"])
    assert set(report.initialised) == {n for n in model.branch(4).state_dict() if re.search("alter|fc", n)}
    table = str(report).splitlines()
    assert "loaded        120  conv1.weight, ..." in table[1]
    assert any("head replaced: the file has 1000 classes, the network 174 (fc.weight, ...)" in x for x in table)
    assert any("8  weight alterations: the file has none, they start near zero" in line for line in table)
    assert len(table) == 4


def test_a_file_without_a_head_and_with_more_than_the_network():
    state = torchvision.models.resnet18().state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    report = load_pretrained(create_backbone("tsm_resnet18", 9), state | {"neck.weight": torch.zeros(3)})
    assert report.skipped == {"neck.weight": "no counterpart in the network"}
    assert report.initialised["fc.bias"] == "head replaced: the file has no classes, the network 9"


# What does not fit


def test_other_networks():
    model = create_backbone("tsm_resnet18", 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wider = before | {"layer1.0.conv1.weight": torch.zeros(128, 64, 1, 1)}
    assert "layer1.0.conv1.weight is (128, 64, 1, 1) in the file and (64, 64, 3, 3)" in refusal(model, wider)
    shallow = {n: t for n, t in before.items() if not n.startswith("layer4.1.")}
    assert "it lacks 10 of its tensors, such as layer4.1.bn1.bias" in refusal(model, shallow)
    foreign = refusal(model, {"features.0.weight": torch.zeros(64, 3, 3, 3)})
    assert "matches nothing" in foreign and "features.0.weight" in foreign and "conv1.weight" in foreign
    assert "no state dict" in refusal(model, {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["file.pth", "file.safetensors", "file.pkl"])
def test_files_that_are_none(tmp_path, name):
    model = create_backbone("tsm_tiny", 5)
    assert "there is no checkpoint" in refusal(model, tmp_path / name)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    (tmp_path / name).write_bytes(buffer.getvalue()[:1000])
    assert "damaged" in refusal(model, tmp_path / name)


# By name


def test_names_are_of_registered_networks_and_torchvision_knows_its_own():
    assert STARTS.keys() <= set(ffn.list_models())
    for starts in STARTS.values():
        for location in starts.values():
            assert callable(location) or "://" in location or torchvision.models.get_weight(location)


def test_a_name_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # where nobody answers
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    model = create_backbone("tsm_resnet18", 1000)
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    message = refusal(model, "imagenet")
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
    assert str(path) in message and "pass the file instead of 'imagenet'" in message
    source = randomised(torchvision.models.resnet18())
    torch.save(source.state_dict(), path)  # by hand
    for name in ("imagenet", "ResNet18_Weights.IMAGENET1K_V1"):
        report = load_pretrained(model, name)
        assert equal(model, source) and report.source == path.name


def test_unknown_names():
    model = create_backbone("tsm_resnet18", 5)
    assert "give one of imagenet, or a file" in refusal(model, "imagnet")
    assert "give a file" in refusal(create_backbone("tsm_tiny", 5), "imagenet")
    assert "give a file" in refusal(nn.Linear(2, 2), "imagenet")
    assert "there is no checkpoint" in refusal(model, os.path.join("weights", "file.pth"))
    assert "torchvision has no weights" in refusal(model, "ResNet18_Weights.IMAGENET9K")


class HeadFirst(nn.Module):
    """A network of a user's own, its classifier defined first, with names like those of released ones."""

    def __init__(self, classes):
        super().__init__()
        self.head, self.conv_4 = nn.Linear(8, classes), nn.Conv3d(3, 8, 1)
        self.conv_8 = nn.Conv3d(8, 8, 1)

    def forward(self, clip):
        return self.head(self.conv_8(self.conv_4(clip)).mean((2, 3, 4)))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_a_users_own_network_from_a_wrapper_and_for_other_classes(prefix):
    source, model = HeadFirst(5), HeadFirst(7)
    report = load_pretrained(model, {f"{prefix}{name}": t for name, t in source.state_dict().items()})
    assert torch.equal(model.conv_4.weight, source.conv_4.weight)
    assert torch.equal(model.conv_8.weight, source.conv_8.weight)
    assert report.initialised["head.weight"] == "head replaced: the file has 5 classes, the network 7"


def test_a_frame_flexible_network_from_a_wrapper():
    source, model = create_model("tsm_tiny", 5), create_backbone("tsm_tiny", 5)
    load_pretrained(model, nn.DataParallel(source).state_dict())
    assert torch.equal(model.bn1.weight, source.branches["16"].bn1.weight)
    assert torch.equal(model.conv1.weight, source.branches["16"].conv1.weight)
