"""One training step of the released networks against its golden values, through the trainer's own task."""

import pytest
import torch
from parity import FAMILIES, clip, golden, needs_goldens, state_dict

import ffn
from ffn.released import load_released, translate
from trainers.methods import TemporalDistillation


def undropped(model):
    """With every dropout and drop-path rate 0, as in the goldens."""
    for module in model.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    return model


@pytest.fixture(autouse=True)
def two_threads():
    """As the goldens were made: how sums are shared out decides their last bits, which training amplifies."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_goldens
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_one_training_step(family):
    want = golden("training_ffn")[family]
    model = undropped(load_released(state_dict("inference_ffn", family))).train()
    low, mid, high = model.frames
    clips = {n: clip(2000 + n, want["batch"], n, want["size"]) for n in model.frames}
    losses = {}
    for term in TemporalDistillation(model.frames).losses(model, clips, torch.tensor(want["labels"])):
        term.total.backward()
        losses |= {(name, term.frames): loss.item() for name, loss in term.losses.items()}
    expected = {("ce", high): "loss_ce", ("kl", low): "loss_kl_low", ("kl", mid): "loss_kl_mid"}
    for key, name in expected.items():
        assert losses[key] == pytest.approx(want[name], rel=1e-4), name

    def ours(released_name):
        name, level = translate(released_name)
        return model.branches[str(model.frames[level or 0])].get_parameter(name)

    total = want["grad_norm_total"]
    assert len(want["grad_norms"]) == sum(1 for _ in model.parameters())
    worst = max(abs(ours(name).grad.norm().item() - norm) for name, norm in want["grad_norms"].items())
    assert worst <= 1e-4 * total
    for released_name, norm in want["running_stat_norms"].items():
        name, level = translate(released_name)
        buffer = model.branches[str(model.frames[level or 0])].get_buffer(name)
        assert buffer.norm().item() == pytest.approx(norm, rel=1e-5), released_name


def test_the_goldens_cover_every_network():
    assert {name.split("_")[0] for name in ffn.list_models("*_tiny")} >= set(FAMILIES)
