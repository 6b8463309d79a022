"""Exported networks: they compute what the network computes, or there is no file."""

import json

import pytest
import torch
from torch import nn

import ffn
from ffn.export import ExportError, export

onnxruntime = pytest.importorskip("onnxruntime")
TINY = ("tsm_tiny", "tea_tiny", "slowfast_tiny", "uniformer_tiny")
SIZE = 48


def network(name, classes=None):
    """A network whose branches clearly differ."""
    torch.manual_seed(0)
    model = ffn.create_model(name, 5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
        if isinstance(module, ffn.WeightAlteration):
            nn.init.normal_(module.weight, std=0.2)
    return model.eval()


def check(run, model, frames):
    for batch in (1, 4):
        clip = torch.randn(batch, 3, frames, SIZE, SIZE)
        with torch.no_grad():
            expected = model(clip)
        assert (run(clip) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("frames", [4, 7])
@pytest.mark.parametrize("name", TINY)
def test_onnx_agrees(name, frames, tmp_path):
    model = network(name)
    export(model, tmp_path / "net.onnx", frames, size=SIZE)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    check(lambda clip: torch.from_numpy(session.run(None, {"clip": clip.numpy()})[0]), model, frames)


def test_onnx_says_what_it_takes(tmp_path):
    model = network("uniformer_tiny")
    export(model, tmp_path / "net.onnx", 6, size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (clip,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (clip.name, clip.shape) == ("clip", ["batch", 3, 6, SIZE, SIZE])
    assert (logits.name, logits.shape) == ("logits", ["batch", 5])
    metadata = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert metadata["network"] == "uniformer_tiny"
    assert (metadata["frames"], metadata["frequency"], metadata["size"]) == (6, 8, SIZE)
    assert metadata["preprocess"]["mean"] == [0.45] * 3 and metadata["preprocess"]["sampling"] == "span"


@pytest.mark.parametrize("frames", [4, 7])
def test_torch_agrees(frames, tmp_path):
    model = network("tsm_tiny")
    export(model, tmp_path / "net.pt2", frames, "torch", SIZE)
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    check(program, model, frames)
    assert json.loads(extra["metadata.json"])["frequency"] == model.frequency_for(frames)


def test_class_names_go_along_and_the_model_stays(tmp_path):
    model = ffn.create_backbone("tsm_tiny", 2).train()
    model.spec = type(model.spec)(**vars(model.spec) | {"classes": ("left", "right")})
    assert export(model, tmp_path / "net.pt2", 4, "torch", 32)["classes"] == ("left", "right")
    assert model.training


class Counting(nn.Module):
    """Computes something else each time: its export cannot be right."""

    calls = 0

    def forward(self, clip):
        self.calls += 1
        return clip.mean((2, 3, 4)) + self.calls


class Branching(nn.Module):
    def forward(self, clip):
        return clip.mean((2, 3, 4)) if clip.sum() > 0 else clip.amax((2, 3, 4))


class OneBatchSize(nn.Module):
    def forward(self, clip):
        return clip.reshape(2, -1).mean(1, keepdim=True)


@pytest.mark.parametrize("format", ["onnx", "torch"])
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [(Counting, "off by .* and was not kept"), (Branching, "cannot be exported"), (OneBatchSize, "cannot")],
)
def test_a_wrong_export_leaves_no_file(wrong, sentence, format, tmp_path, capfd):
    with pytest.raises(ExportError, match=sentence) as error:
        export(wrong(), tmp_path / "net", 2, format, 8)
    assert list(tmp_path.iterdir()) == []
    assert "\n" not in str(error.value) and capfd.readouterr() == ("", "")


def test_a_file_that_is_there_survives_a_wrong_export(tmp_path):
    (tmp_path / "net").write_bytes(b"good")
    with pytest.raises(ExportError):
        export(Counting(), tmp_path / "net", 2, "torch", 8)
    assert (tmp_path / "net").read_bytes() == b"good"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"frames": 0}, "at least 1 frame"),
        ({"frames": 4, "format": "tflite"}, "choose one of onnx, torch"),
        ({"frames": 4, "size": -1}, "at least 1 pixel"),
    ],
)
def test_wrong_arguments(arguments, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        export(Counting(), tmp_path / "net", **arguments)
