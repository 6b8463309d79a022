"""The training loop on a handful of rendered clips: what each option does to a step."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ffn
from trainers.config import Config
from trainers.data.motion import Motion
from trainers.loop import Trainer, TrainingError
from trainers.optim import freeze_norms

SMALL = {"size": 32, "batch_size": 4, "workers": 0, "device": "cpu", "precision": "fp32", "dropout": 0.0}


@pytest.fixture
def trainer(tmp_path):
    def build(frames=(2, 4), observer=None, **settings) -> Trainer:
        config = Config(out=tmp_path, frames=frames, method="ffn" if len(frames) > 1 else "plain")
        config = config.with_fields(SMALL | {"warm_start": 0} | settings).resolved()
        return Trainer(config, Motion("train", 8, 32), Motion("val", 4, 32), observer)

    return build


def step(trainer):
    """One step on the first batch; its losses and the network's new weights."""
    task = trainer.stages[0].task
    trainer.model.train()
    losses = trainer.step(task, next(iter(trainer._batches(task))))
    return losses, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def gradients(trainer):
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_accumulation_changes_memory_and_not_the_step(trainer):
    # Without batch statistics, or each part would normalise by its own.
    whole, parts = trainer(accumulate=1), trainer(accumulate=2)
    for one in (whole, parts):
        for module in one.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.track_running_stats, module.training = True, False
                module.train = lambda mode=True: None
    one, other = step(whole)[0], step(parts)[0]
    assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
    torch.testing.assert_close(gradients(whole), gradients(parts), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_gradients_are_clipped_in_every_precision(precision, trainer):
    free, clipped = trainer(precision=precision), trainer(precision=precision, clip_norm=0.01)
    step(free), step(clipped)
    assert gradients(free).norm() > 0.02
    assert gradients(clipped).norm() == pytest.approx(0.01, rel=0.02)


def test_the_moving_average_follows_the_weights(trainer):
    averaged = trainer(ema=0.5)
    before = {name: p.detach().clone() for name, p in averaged.model.named_parameters()}
    _, first = step(averaged)
    _, second = step(averaged)
    name = "branches.2.conv1.weight"
    assert not torch.equal(before[name], second[name])
    kept = averaged.evaluated.get_parameter(name)
    torch.testing.assert_close(kept, (first[name] + second[name]) / 2)  # the first update copies
    assert averaged.evaluated.branches["2"].conv1.weight is averaged.evaluated.branches["4"].conv1.weight


def test_the_moving_average_begins_each_stage_too(trainer):
    averaged = trainer(ema=0.9, epochs=2, warm_start=1)
    for network in (averaged.model, averaged.evaluated):
        torch.nn.init.normal_(network.branches["2"].bn1.bias)
    averaged.progress.epoch = 1  # the warm start is done
    averaged.step = lambda task, batch: {}
    averaged._train_epoch(SimpleNamespace(signal=None))
    for network in (averaged.model, averaged.evaluated):
        assert torch.equal(network.branches["4"].bn1.bias, network.branches["2"].bn1.bias)


def test_a_run_goes_on_in_half_precision(trainer):
    trainer(precision="fp32").save()
    trainer(precision="fp16").resume()


def test_training_clips_may_be_of_another_size(trainer):
    one = trainer(train_size=16, augment="short_side")
    batch = next(iter(one._batches(one.stages[0].task)))
    assert batch.clips[4].shape[2:] == (16, 16, 3) and one.evaluated.spec.preprocess.size == 32
    with pytest.raises(ValueError, match=r"train_size 224 is more than .*: give a smaller --train-size"):
        trainer(train_size=224)


def test_partial_bn_leaves_only_the_first_norm_of_each_branch_to_learn(trainer):
    model = trainer(partial_bn=True).model
    frozen = trainer(partial_bn=True)
    frozen.model.train()
    freeze_norms(frozen.model)
    norms = {n: m for n, m in frozen.model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    learning = [name for name, norm in norms.items() if norm.training and norm.weight.requires_grad]
    assert learning == ["branches.2.bn1", "branches.4.bn1"] and len(norms) > 2
    assert all(p.requires_grad for p in model.parameters())


def test_a_loss_that_is_not_finite_names_step_and_clips(trainer, tmp_path):
    broken = trainer()
    with torch.no_grad():
        broken.model.branches["4"].fc.bias.fill_(math.nan)
    with pytest.raises(TrainingError, match=r"not finite at step 1 of epoch 1 .*ce_4.*clips motion clip "):
        broken.fit()
    assert not (tmp_path / "last.pt").exists()  # a good one would have been kept


def test_early_stop_and_the_best_by_the_mean_over_frequencies(trainer, tmp_path):
    run = trainer(epochs=9, patience=2, lr=1e-12)  # learns nothing: the first epoch stays the best
    run.fit()
    assert run.progress.epoch == 3 and run.progress.best_epoch == 1
    rows = [row for row in run.progress.history if row["epoch"] == 1]
    assert run.progress.best == pytest.approx(sum(row["top1"] for row in rows) / 2, abs=1e-3)
    assert ffn.load(tmp_path / "best.safetensors").spec.frames == (2, 4)


def test_mixup_and_cutmix_train_on_soft_labels(trainer):
    losses, _ = step(trainer(mixup=0.8, cutmix=1.0, label_smoothing=0.1))
    assert set(losses) == {"ce_4", "ce_2", "kl_2"} and all(map(math.isfinite, losses.values()))


@pytest.mark.parametrize(("method", "names"), [("mixed", {"ce_2", "ce_4"}), ("finetune", {"ce_4"})])
def test_other_methods_take_a_step(method, names, tmp_path):
    frames = (4,) if method == "finetune" else (2, 4)
    start = tmp_path / "start.safetensors"
    ffn.save(ffn.create_backbone("tsm_tiny", 21), start)
    config = Config(out=tmp_path, method=method, frames=frames)
    settings = SMALL | {"init": str(start) if method == "finetune" else None}
    one = Trainer(config.with_fields(settings).resolved(), Motion("train", 8, 32), Motion("val", 4, 32))
    assert set(step(one)[0]) == names
    assert (method == "finetune") == bool(one.notes)


def test_proportional_sampling_takes_one_count_a_step(tmp_path):
    settings = SMALL | {"rho": 0.5, "epochs": 4, "val_clips": 4}
    config = Config(out=tmp_path, method="proportional", frames=(2, 4)).with_fields(settings).resolved()
    one = Trainer(config, Motion("train", 16, 32), Motion("val", 4, 32))
    seen = []
    one.observer = SimpleNamespace(step=lambda e, s, losses, lr: seen.append(*losses), epoch=lambda *_: None)
    one.fit()
    assert set(seen) == {"ce_2", "ce_4"} and len(seen) == 16
    losses = [row["ce"] for row in one.progress.history if row["ce"] != ""]
    assert min(losses) > 1, "the mean is over the steps that drew that count"


def test_accumulation_draws_one_count_a_step(tmp_path):
    settings = SMALL | {"accumulate": 4}
    config = Config(out=tmp_path, method="proportional", frames=(2, 4)).with_fields(settings).resolved()
    one = Trainer(config, Motion("train", 16, 32), Motion("val", 4, 32))
    task = one.stages[0].task
    assert all(len(one.step(task, batch)) == 1 for batch in one._batches(task))


def test_an_early_stop_is_final(trainer):
    settings = {"epochs": 9, "patience": 1, "lr": 1e-12, "val_clips": 4}
    one = trainer(**settings)
    one.fit()
    epochs = one.progress.epoch
    assert epochs < 9
    again = trainer(**settings)
    again.resume()
    again.fit()
    assert again.progress.epoch == epochs


@pytest.mark.parametrize("switch", ["private_norms", "alteration", "share_weights"])
def test_ablations_reach_the_network(switch, trainer):
    ours, theirs = trainer(), trainer(**{switch: False})
    count = [ffn.measure.count_parameters(one.model) for one in (ours, theirs)]
    assert count[0] < count[1] if switch == "share_weights" else count[0] > count[1]
    step(theirs)


def test_same_draws_for_a_resumed_run_of_any_kind_of_generator(trainer, tmp_path):
    one = trainer()
    one.save()
    drawn = random.random(), np.random.rand(), torch.rand(())
    one.resume()
    assert drawn == (random.random(), np.random.rand(), torch.rand(()))


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    config = Config(out=tmp_path).with_fields(SMALL | {"batch_size": 64}).resolved()
    with pytest.raises(ValueError, match="8 training clips do not fill one batch of 64"):
        Trainer(config, Motion("train", 8, 32), Motion("val", 4, 32))
