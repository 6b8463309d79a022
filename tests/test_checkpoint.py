"""Our safetensors form: what goes in comes out, and what does not fit is named."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

import ffn
from ffn.checkpoint import read_metadata


def randomised(model):
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("create", [ffn.create_model, ffn.create_backbone])
def test_round_trip(create, tmp_path):
    model = randomised(create("tsm_tiny", 3))
    model.spec = replace(model.spec, classes=("a", "b", "c"))
    ffn.save(model, tmp_path / "net.safetensors", command="how it was made")
    again = ffn.load(tmp_path / "net.safetensors")
    assert again.spec == model.spec
    clip = torch.randn(1, 3, 8, 48, 48)
    assert torch.equal(again(clip), model(clip))
    assert read_metadata(tmp_path / "net.safetensors")["command"] == "how it was made"


def test_shared_tensors_are_written_once(tmp_path):
    ffn.save(ffn.create_model("tsm_tiny", 3), tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        names = list(file.keys())
    assert sum(name.endswith(".layer1.0.conv1.weight") for name in names) == 1
    assert sum(name.endswith(".layer1.0.bn1.weight") for name in names) == 3


def test_half_precision_is_half_the_size(tmp_path):
    model = randomised(ffn.create_model("tsm_tiny", 3))
    ffn.save(model, tmp_path / "full.safetensors")
    ffn.save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.55 * full
    again = ffn.load(tmp_path / "half.safetensors")
    assert next(again.parameters()).dtype == torch.float32
    torch.testing.assert_close(again.state_dict(), model.half().float().state_dict())


def test_what_half_precision_cannot_hold_stays_whole(tmp_path):
    model = ffn.create_model("tsm_tiny", 3)
    model.branches["4"].bn1.running_var.fill_(1e5)
    ffn.save(model, tmp_path / "half.safetensors", dtype=torch.float16)
    assert ffn.load(tmp_path / "half.safetensors").branches["4"].bn1.running_var.eq(1e5).all()


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_a_wrapped_network_is_saved_without_its_wrapper(wrap, tmp_path):
    model = ffn.create_model("tsm_tiny", 3).eval()
    ffn.save(wrap(model), tmp_path / "net.safetensors")
    clip = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(ffn.load(tmp_path / "net.safetensors")(clip), model(clip))
    assert ffn.Predictor(wrap(model)).frequency_for(14) == 16


def test_channels_last_weights_and_the_users_own_network(tmp_path):
    def build():
        return ffn.FrameFlexible(nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)), (2, 4))

    model = build().to(memory_format=torch.channels_last_3d)
    ffn.save(model, tmp_path / "own.safetensors")
    again = ffn.load(tmp_path / "own.safetensors", build())
    torch.testing.assert_close(again.state_dict(), model.state_dict())
    with pytest.raises(ffn.CheckpointError, match="network of your own"):
        ffn.load(tmp_path / "own.safetensors")


def test_what_does_not_fit_is_named(tmp_path):
    ffn.save(ffn.create_model("tsm_tiny", 3), tmp_path / "net.safetensors")
    with pytest.raises(ffn.CheckpointError, match=r"fc\.weight is \(3, 128\) in the file and \(4, 128\)"):
        ffn.load(tmp_path / "net.safetensors", ffn.create_model("tsm_tiny", 4))
    with pytest.raises(ffn.CheckpointError, match=r"is missing from the file|is not in the network"):
        ffn.load(tmp_path / "net.safetensors", ffn.create_backbone("tsm_tiny", 3))


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04\x95garbage pickle"])
def test_foreign_files_end_in_one_sentence(content, tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(ffn.CheckpointError, match="damaged or no safetensors file"):
        ffn.load(tmp_path / "bad.safetensors")
    with pytest.raises(ffn.CheckpointError, match="there is no checkpoint"):
        ffn.load(tmp_path / "absent.safetensors")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    ffn.save(ffn.create_model("tsm_tiny", 3), path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        ffn.save(ffn.create_model("tsm_tiny", 3), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
