"""Losses against hand-written formulas, and the gradients of one backward per frequency."""

import copy

import pytest
import torch
from torch.nn import functional as F

import ffn
from trainers.config import Config
from trainers.methods import METHODS, CrossEntropy, TemporalDistillation


def batch(frames=(2, 4, 8), size=2, classes=5):
    generator = torch.Generator().manual_seed(0)
    clips = {n: torch.randn(size, 3, n, 32, 32, generator=generator) for n in frames}
    return clips, torch.randint(classes, (size,), generator=generator)


def test_the_papers_loss():
    model = ffn.create_model("tsm_tiny", 5, (2, 4, 8)).eval()
    torch.nn.init.normal_(model.branches["8"].fc.weight)
    clips, labels = batch()
    terms = {
        (name, term.frames): loss.item()
        for term in TemporalDistillation((2, 4, 8), 0.5).losses(model, clips, labels)
        for name, loss in term.losses.items()
    }
    p = {n: model(clip).softmax(1) for n, clip in clips.items()}
    assert terms["ce", 8] == pytest.approx(-p[8][range(2), labels].log().mean().item(), rel=1e-5)
    for n in (2, 4):
        divergence = (p[8] * (p[8] / p[n]).log()).sum(1).mean().item()
        assert terms["kl", n] == pytest.approx(0.5 * divergence, rel=1e-3)


@pytest.mark.parametrize("task", [TemporalDistillation((2, 4, 8)), CrossEntropy((2, 4))])
def test_one_backward_per_frequency_gives_the_gradients_of_the_sum(task):
    torch.manual_seed(0)
    model = ffn.create_model("tsm_tiny", 5, (2, 4, 8), dropout=0.0)
    other = copy.deepcopy(model)
    clips, labels = batch()
    for term in task.losses(model, clips, labels):
        term.total.backward()
    sum(term.total for term in task.losses(other, clips, labels)).backward()
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_the_teacher_is_detached():
    model = ffn.create_model("tsm_tiny", 5, (2, 8)).eval()
    clips, labels = batch((2, 8))
    terms = list(TemporalDistillation((2, 8)).losses(model, clips, labels))
    terms[1].total.backward()
    assert model.branches["8"].bn1.weight.grad is None and model.branches["2"].bn1.weight.grad is not None


def test_warm_start_teaches_the_lower_frequencies_first():
    config = Config(frames=(4, 8, 16))
    first, proper = METHODS["ffn"].stages(config)
    assert (first.epochs, proper.epochs) == (4, 6)
    assert first.task.frames == (4, 8) and proper.task == TemporalDistillation((4, 8, 16), 0.5, 0.5)
    model = ffn.create_model("tsm_tiny", 5)
    torch.nn.init.normal_(model.branches["8"].bn1.bias)
    proper.begin(model)
    assert torch.equal(model.branches["16"].bn1.bias, model.branches["8"].bn1.bias)


def test_the_papers_own_schedule_and_loss_are_three_options_away():
    (only,) = METHODS["ffn"].stages(
        Config(frames=(4, 8, 16)).with_fields({"warm_start": 0, "distillation": 1.0, "lower_labels": 0.0})
    )
    assert only.task == TemporalDistillation((4, 8, 16)) and only.epochs == 10


@pytest.mark.parametrize(("frames", "fewer"), [(16, 8), (8, 4), (4, 4), (2, 2)])
def test_plain_is_warmed_up_alike(frames, fewer):
    config = Config(method="plain", frames=(frames,)).with_fields({"epochs": 5})
    warm, proper = METHODS["plain"].stages(config)
    assert (warm.task.frames, warm.epochs) == ((fewer,), 2)
    assert (proper.task.frames, proper.epochs) == ((frames,), 3)


def test_distillation_equals_cross_entropy_for_one_frequency():
    model = ffn.create_model("tsm_tiny", 5, (4,)).eval()
    clips, labels = batch((4,))
    (term,) = TemporalDistillation((4,)).losses(model, clips, labels)
    assert term.total.item() == pytest.approx(F.cross_entropy(model(clips[4]), labels).item())
