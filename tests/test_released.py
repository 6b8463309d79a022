"""Released checkpoints: read right (golden outputs), recognised, refused in one sentence when unfit."""

from __future__ import annotations

import io
import math
import os
import pickle
import re

import parity
import pytest
import torch
from torch import Tensor, nn

from ffn import CheckpointError, FrameFlexible, WeightAlteration, create_backbone, create_model
from ffn.flexible import NORMS
from ffn.released import load_released

EXTRA = {"tsm": 145_600, "tea": 145_056, "slowfast": 167_048, "uniformer": 58_944}  # parameters of FFN
TOLERANCE = 1e-5  # of the largest golden value


def released_form(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of one of our networks as its authors would have saved it."""
    flexible = isinstance(model, FrameFlexible)
    branches = list(model.branches.values()) if flexible else [model]
    state = {}
    for branch, suffix in zip(branches, ("_4", "_8", "_16") if flexible else ("",), strict=True):
        for path, module in branch.named_modules():
            private = isinstance(module, (*NORMS, WeightAlteration))
            path = released_path(path, suffix if private else "", flexible)
            if hasattr(branch, "fc"):  # the 2D networks
                path = re.sub("^base_model.fc", "new_fc", f"base_model.{path}")
            for name, tensor in [
                *module.named_parameters(recurse=False),
                *module.named_buffers(recurse=False),
            ]:
                if isinstance(module, WeightAlteration):
                    tensor = tensor.reshape(-1, 1, 1, 1)
                state[f"{path}.{name}"] = tensor.detach().clone()
    return state


def released_path(path: str, suffix: str, flexible: bool) -> str:
    path = path.replace("alteration", "adaconv")
    path = re.sub(r"(shifts\.\d)", r"\1.conv", path)
    if flexible:
        path = path.replace("downsample.0", "downsample_conv").replace("downsample.1", "downsample_bn")
    return re.sub(r"(bns)(\.\d)$|(.)$", rf"\1\3{suffix}\2", path)


def tiny(family: str, flexible: bool) -> nn.Module:
    """A small network of the family, every tensor of it drawn anew."""
    name = f"{family}_tiny"
    model = create_model(name, 5) if flexible else create_backbone(name, 5)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return model.eval()


def state_equal(model: nn.Module, other: nn.Module) -> bool:
    state, others = model.state_dict(), other.state_dict()
    return state.keys() == others.keys() and all(torch.equal(state[k], others[k]) for k in state)


def refusal(*arguments) -> str:
    """The one sentence with which load_released refuses."""
    with pytest.raises(CheckpointError) as caught:
        load_released(*arguments)
    message = str(caught.value)
    assert message and "\n" not in message and ". " not in message
    return message


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    return tiny("tsm", flexible=False)


# The goldens


@pytest.mark.slow
@parity.needs_goldens
@pytest.mark.parametrize("kind, seed", [("inference_ffn", 1000), ("inference_plain", 3000)])
@pytest.mark.parametrize("family", parity.FAMILIES)
def test_outputs_are_the_golden_ones(family, kind, seed):
    golden, plain = parity.golden(kind)[family], parity.golden("inference_plain")[family]
    model = load_released(parity.state_dict(kind, family))
    flexible = kind == "inference_ffn"
    assert isinstance(model, FrameFlexible) == flexible
    assert sum(p.numel() for p in model.parameters()) == plain["params"] + flexible * EXTRA[family]
    for frames, values in golden["logits"].items():
        expected = torch.tensor(values)
        with torch.inference_mode():
            output = model(parity.clip(seed + int(frames), 1, int(frames), golden["size"]))[0]
        if family == "slowfast":  # the released network ends in a softmax
            output = output.softmax(0)
        assert (output - expected).abs().max() <= TOLERANCE * expected.abs().max(), f"{frames} frames"


@parity.needs_goldens
@pytest.mark.parametrize("kind", ["inference_ffn", "inference_plain"])
@pytest.mark.parametrize("family", parity.FAMILIES)
def test_the_names_in_these_tests_are_the_released_ones(family, kind):
    golden = parity.golden(kind)[family]
    name = "uniformer_small" if family == "uniformer" else f"{family}_resnet50"
    create = create_model if kind == "inference_ffn" else create_backbone
    state = released_form(create(name, golden["num_classes"]))
    sizes = {name: tensor.numel() for name, tensor in state.items()}
    assert sizes == {name: math.prod(shape) for name, shape in golden["keys"]}


# Names and wrappers


@pytest.mark.parametrize("flexible", [True, False], ids=["ffn", "plain"])
@pytest.mark.parametrize("family", parity.FAMILIES)
def test_fills_a_given_network(family, flexible):
    source, target = tiny(family, flexible), tiny(family, flexible).train()
    assert not state_equal(source, target)
    assert load_released(released_form(source), target) is target
    assert state_equal(source, target) and not target.training


@pytest.mark.parametrize(
    "name",
    ["tsm_resnet18", "tsm_resnet50", "tsm_resnet101", "tea_resnet50", "slowfast_resnet50", "uniformer_small"],
)
def test_recognises_the_network(name):
    for source in (create_backbone(name, 7), create_model(name, 7)):
        model = load_released(released_form(source))
        assert model.spec == source.spec and state_equal(model, source)


def test_fed_as_its_family_was_trained():
    tsm, slowfast, uniformer = (
        load_released(released_form(create_backbone(name, 2))).spec.preprocess
        for name in ("tsm_resnet18", "slowfast_resnet50", "uniformer_small")
    )
    assert (tsm.size, tsm.resize, tsm.bgr, tsm.mean[0], tsm.std[0]) == (224, 256, False, 0.485, 0.229)
    assert (slowfast.size, slowfast.bgr, slowfast.mean[0], slowfast.std[0]) == (256, False, 0.45, 0.225)
    assert (uniformer.size, uniformer.bgr, uniformer.mean[0], uniformer.std[0]) == (224, True, 0.45, 0.225)


def test_suffixes_are_low_middle_high_whatever_the_counts():
    source, target = tiny("tsm", True), create_model("tsm_tiny", 5, (2, 3, 30))
    load_released(released_form(source), target)
    for ours, theirs in zip((2, 3, 30), (4, 8, 16), strict=True):
        assert state_equal(target.branch(ours), source.branch(theirs))


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state"])
def test_wrappers_and_prefixes(plain, wrapper, tmp_path):
    state = {f"module.{name}": tensor for name, tensor in released_form(plain).items()}
    contents = {
        "epoch": 50,
        "arch": "resnet50",
        "cfg": "TRAIN: 1",
        "best_prec1": torch.tensor(4.0),
        wrapper: state,
    }
    torch.save(contents, path := tmp_path / "released.pth.tar")
    for source in (contents, state, path, str(path)):
        assert state_equal(load_released(source, create_backbone("tsm_tiny", 5)), plain)


def test_keys_of_the_original_tsm(plain):
    state = {
        name.replace(".conv1.", ".conv1.net."): t for name, t in released_form(plain).items() if ".0." in name
    }
    state |= {name: t for name, t in released_form(plain).items() if ".0." not in name}
    assert "base_model.layer1.0.conv1.net.weight" in state
    assert state_equal(load_released(state, create_backbone("tsm_tiny", 5)), plain)


# Misfits


def test_names_every_kind_of_misfit(plain):
    state = released_form(plain)
    del state["base_model.bn1.bias"]
    state["base_model.layer9.conv.weight"] = torch.zeros(1)
    state["new_fc.bias"] = torch.zeros(6)
    target = create_backbone("tsm_tiny", 5)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    message = refusal(state, target)
    assert "bn1.bias is missing" in message
    assert "base_model.layer9.conv.weight is not in the network" in message
    assert "new_fc.bias is (6,) in the file and (5,) in the network" in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_alterations_and_private_norms_must_fit():
    state = released_form(tiny("tsm", True))
    state["base_model.layer1.0.adaconv_8.weight"] = torch.zeros(3, 1, 1, 1)
    del state["base_model.layer2.0.downsample_bn_16.weight"]
    message = refusal(state, create_model("tsm_tiny", 5))
    assert "base_model.layer1.0.adaconv_8.weight is (3,)" in message
    assert "branches.16.layer2.0.downsample.1.weight is missing" in message


def test_plain_and_frame_flexible_are_not_mixed_up(plain):
    flexible = released_form(tiny("tsm", True))
    assert "FrameFlexible of three frequencies" in refusal(flexible, create_backbone("tsm_tiny", 5))
    assert "FrameFlexible of three frequencies" in refusal(flexible, create_model("tsm_tiny", 5, (4, 16)))
    assert "plain network" in refusal(released_form(plain), create_model("tsm_tiny", 5))


def test_a_tensor_under_two_names(plain):
    state = released_form(plain)
    state["module.new_fc.bias"] = state["new_fc.bias"] + 1
    assert "module.new_fc.bias twice, also as new_fc.bias" in refusal(state, create_backbone("tsm_tiny", 5))


def test_no_classifier_other_networks_and_no_state_dicts(plain):
    headless = released_form(create_backbone("tsm_resnet18", 2))
    del headless["new_fc.weight"]
    assert "without a classifier" in refusal(headless)
    assert "none of the networks" in refusal({"encoder.weight": torch.zeros(1)})
    assert "no state dict" in refusal({})
    assert "no state dict" in refusal({"state_dict": [1, 2]})
    assert "'epoch'" in refusal({"epoch": 3})
    sparse = released_form(plain) | {"new_fc.bias": torch.zeros(5).to_sparse()}
    assert "new_fc.bias" in refusal(sparse, create_backbone("tsm_tiny", 5))


# Files that are not what they should be


class Malice:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_not_executed(plain, tmp_path, how):
    trace = tmp_path / "executed"
    contents = {"state_dict": released_form(plain), "arch": Malice(trace)}
    if how == "pickle":
        (tmp_path / "file").write_bytes(pickle.dumps(contents, protocol=2))
    else:
        torch.save(contents, tmp_path / "file", _use_new_zipfile_serialization=how == "zip")
    message = refusal(tmp_path / "file", create_backbone("tsm_tiny", 5))
    assert not trace.exists()
    assert how == "pickle" or "mkdir" in message
    if how == "pickle":  # the trap is real: an ordinary unpickling falls into it
        pickle.loads((tmp_path / "file").read_bytes())
        assert trace.exists()


def saved(contents: object, zipped: bool) -> bytes:
    torch.save(contents, file := io.BytesIO(), _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file(plain, tmp_path, kept, zipped):
    whole = saved(released_form(plain), zipped)
    (tmp_path / "file").write_bytes(whole[: int(kept * len(whole))])
    assert "damaged" in refusal(tmp_path / "file")


@pytest.mark.parametrize(
    "contents", [b"a text\n" * 50, b"<!DOCTYPE html><html>", b"\x80\x02", bytes(range(256)) * 9]
)
def test_a_foreign_file(tmp_path, contents):
    (tmp_path / "file").write_bytes(contents)
    assert "damaged or no PyTorch checkpoint" in refusal(tmp_path / "file")


def test_no_file(tmp_path):
    assert "there is no checkpoint" in refusal(tmp_path / "file")
    assert "there is no checkpoint" in refusal(tmp_path)
