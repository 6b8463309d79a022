"""What networks cost: the field's numbers for known networks, and honest clocks and scales."""

import csv
import time

import pytest
import torch
from torch import nn

import ffn
from ffn.benchmark import Row, benchmark, markdown, write
from ffn.measure import count_parameters, gflops, latency, peak_memory


@pytest.mark.parametrize(
    ("name", "frames", "size", "published"),
    [
        ("tsm_resnet50", 8, 224, 33),
        ("tea_resnet50", 8, 224, 35),
        ("slowfast_resnet50", 32, 256, 65.7),
        ("uniformer_small", 16, 224, 41.8),
    ],
)
def test_known_networks_have_the_published_gflops(name, frames, size, published):
    assert gflops(ffn.create_backbone(name, 400), frames, size) == pytest.approx(published, rel=0.02)


def test_a_convolution_and_attention_by_hand():
    convolution = nn.Conv3d(3, 5, 3, padding=1)
    assert gflops(convolution, 4, 8) == pytest.approx(4 * 8 * 8 * 5 * 3 * 27 / 1e9)

    class Attention(nn.Module):
        def forward(self, clip):
            tokens = clip.flatten(2).transpose(1, 2)[:, None]  # (1, 1, N, 3)
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    tokens = 4 * 8 * 8
    assert gflops(Attention(), 4, 8) == pytest.approx(2 * tokens * tokens * 3 / 1e9)


def test_counting_leaves_the_network_alone():
    model = ffn.create_model("tsm_tiny", 5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert gflops(model, 8, 64) == pytest.approx(2 * gflops(model, 4, 64), rel=1e-3)
    assert model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_what_branches_share_counts_once():
    plain, flexible = ffn.create_backbone("tsm_resnet50", 174), ffn.create_model("tsm_resnet50", 174)
    assert count_parameters(plain) == 23_864_558
    assert count_parameters(flexible) == 24_010_158


def test_latency_is_the_median_of_the_timed_runs():
    naps = iter([0.2, 0.01, 0.02, 0.03, 0.04, 0.3])  # the first is the warm-up
    measured = latency(lambda clip: time.sleep(next(naps)), torch.zeros(1), repeats=5, warm_up=1)
    assert measured.median == pytest.approx(30, rel=0.5)
    assert measured.low < measured.median < measured.high < 200
    once = latency(lambda clip: time.sleep(0.01), torch.zeros(1), repeats=1, warm_up=0)
    assert once.low == once.median == once.high >= 10
    with pytest.raises(ValueError, match="at least 1 repeat"):
        latency(lambda clip: None, torch.zeros(1), repeats=0)


def test_peak_memory_is_weights_and_what_a_run_adds():
    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2**20))  # 4 MB
            self.packed = torch.ones(2**21)  # 8 MB that no parameter tells of

        def forward(self, clip):
            first = torch.ones(2**23)  # 32 MB
            second = first * 2  # 32 more
            del first
            return second.sum() + clip.sum()

    clip, model = torch.zeros(1), Hungry()
    measured = [peak_memory(model, clip) for _ in range(3)]
    if measured[0] is None:
        pytest.skip("this system does not tell the peak of resident memory")
    assert all(76 - 2 < value < 76 + 20 for value in measured)


@pytest.fixture(scope="module")
def rows():
    return list(benchmark("tsm_tiny", (1, 4), num_classes=5, size=32, repeats=2))


def test_a_row_for_every_form_and_frame_count(rows):
    assert [(row.form, row.frames) for row in rows] == [
        (form, count) for count in (1, 4) for form in ("plain", "frame-flexible", "deployed")
    ]
    plain, flexible, deployed = rows[3:]
    assert flexible.parameters - plain.parameters == count_parameters(
        ffn.create_model("tsm_tiny", 5)
    ) - count_parameters(ffn.create_backbone("tsm_tiny", 5))
    assert deployed.parameters < plain.parameters  # norms are folded away
    assert plain.gflops == flexible.gflops == pytest.approx(deployed.gflops)
    assert all(0 < row.low_ms <= row.median_ms <= row.high_ms for row in rows)


def test_rows_as_markdown_csv_and_plot(rows, tmp_path):
    assert markdown(rows).count("\n") == 1 + len(rows)
    assert "| tsm_tiny | deployed | 4 |" in markdown(rows)
    write(tmp_path / "out", rows)
    again = list(csv.DictReader((tmp_path / "out/benchmark.csv").open()))
    assert [row["form"] for row in again] == [row.form for row in rows]
    assert float(again[0]["median_ms"]) == rows[0].median_ms
    assert (tmp_path / "out/benchmark.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_memory_is_said_so():
    assert markdown([Row("n", "plain", 4, 64, 10, 0.1, 1, 1, 1, None)]).endswith("| n/a |")


@pytest.mark.parametrize("wrong", [{"frames": (0,)}, {"size": 0}, {"repeats": 0}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        next(benchmark("tsm_tiny", **{"num_classes": 5} | wrong))
