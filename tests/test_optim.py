"""Learning rates by hand, parameter groups as released, batches blended by hand, recipes and configuration."""

import numpy as np
import pytest
import torch

import ffn
from trainers.config import Config, Optimisation
from trainers.mixing import mix
from trainers.optim import create_optimizer, learning_rate
from trainers.recipes import RECIPES


def test_step_schedule_with_warm_up():
    settings = Optimisation(epochs=22, lr=0.03, schedule="step", milestones=(14, 18), warmup_epochs=0.2)
    rate = learning_rate(Optimisation(**vars(settings) | {"warmup_lr": 1e-4}), 100)
    assert 0.03 * rate(0) == pytest.approx(1e-4)
    assert 0.03 * rate(10) == pytest.approx((1e-4 + 0.03) / 2)
    assert [round(0.03 * rate(100 * epoch), 9) for epoch in (1, 13, 14, 18)] == [0.03, 0.03, 0.003, 0.0003]


def test_cosine_schedule():
    settings = Optimisation(
        epochs=60, lr=2e-4, schedule="cosine", final_lr=1e-6, warmup_epochs=5, warmup_lr=1e-6
    )
    rate = learning_rate(settings, 10)
    assert 2e-4 * rate(0) == pytest.approx(1e-6) and rate(50) == 1
    assert 2e-4 * rate(325) == pytest.approx((2e-4 + 1e-6) / 2)
    assert 2e-4 * rate(600) == pytest.approx(1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4, 5])
def test_the_shortest_runs_have_a_learning_rate(steps):
    rate = learning_rate(Optimisation(epochs=steps), 1)
    assert rate(0) == 1 and all(0 <= rate(step) <= 1 for step in range(steps + 1))


def test_released_groups_hold_every_parameter_once():
    model = ffn.create_model("tsm_resnet18", 7)
    settings = Optimisation(optimizer="sgd", lr=0.01, weight_decay=5e-4, groups="released")
    groups = create_optimizer(model, settings).param_groups
    found = [p for group in groups for p in group["params"]]
    assert len(found) == len({id(p) for p in found}) == len(list(model.parameters()))
    settings_of = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    branch = model.branches["4"]
    assert settings_of[id(branch.fc.weight)] == pytest.approx((0.05, 5e-4))
    assert settings_of[id(branch.fc.bias)] == pytest.approx((0.1, 0))
    assert settings_of[id(branch.conv1.weight)] == pytest.approx((0.01, 5e-4))
    assert settings_of[id(branch.bn1.bias)] == pytest.approx((0.01, 0))
    altered = model.branches["16"].get_submodule(model.alterations[0])
    assert settings_of[id(altered.weight)] == pytest.approx((0.01, 5e-4))


def test_mixup_blends_alike_at_every_frame_count():
    clips = {n: torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 3, n, 8, 8) for n in (2, 4)}
    mixed, labels = mix(clips, torch.tensor([0, 2]), 3, 0.8, 0, np.random.default_rng(0))
    share = labels[0, 0].item()
    assert 0 < share < 1 and labels.tolist() == [
        pytest.approx([share, 0, 1 - share]),
        pytest.approx([1 - share, 0, share]),
    ]
    for clip in mixed.values():
        assert clip[0].unique().item() == pytest.approx(1 - share)


def test_cutmix_pastes_a_box_of_the_labels_share():
    clips = {n: torch.arange(2.0).view(2, 1, 1, 1, 1).expand(2, 3, n, 20, 20) for n in (2, 4)}
    mixed, labels = mix(clips, torch.tensor([0, 1]), 2, 0, 1.0, np.random.default_rng(3))
    for clip in mixed.values():
        assert clip[0].mean().item() == pytest.approx(labels[0, 1].item()) and 0 < labels[0, 1] < 1
    assert torch.equal(mixed[2][:, :, 0], mixed[4][:, :, 0])


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_run(name):
    config = Config.from_recipe(name).with_fields({"data_root": "somewhere"}).resolved()
    assert Config.from_json(config.to_json()).flat() | {"data_root": "somewhere"} == config.flat()
    assert RECIPES[name].paper and all(0 < top1 < 100 for top1 in RECIPES[name].paper.values())
    assert config.command()[:2] == ["--recipe", name]


def test_a_recipe_holds_what_the_paper_says():
    config = Config.from_recipe("uniformer-ffn-ssv1")
    assert (config.optim.lr, config.optim.epochs, config.optim.warmup_epochs) == (2e-4, 60, 5)
    assert RECIPES["uniformer-ffn-ssv1"].paper == {4: 51.41, 8: 56.64, 16: 58.88}
    assert Config.from_recipe("slowfast-ffn-ssv1").frames == (16, 32, 64)
    assert len(RECIPES) == 7 * 4 + 13


def test_the_command_says_what_differs_from_the_defaults(tmp_path):
    config = Config(out=tmp_path, frames=(2, 4)).with_fields({"lr": 0.5, "flip": True, "alteration": False})
    assert config.command() == [
        *("--out", str(tmp_path), "--frames", "2", "4", "--flip", "--no-alteration", "--lr", "0.5")
    ]


def test_a_command_gives_back_its_configuration(tmp_path):
    from trainers.run import parse

    for settings in ({"lr": 0.5, "milestones": (1, 2), "schedule": "step"}, {"ema": 0.9, "compile": True}):
        config = Config(out=tmp_path / "run").with_fields(settings).resolved()
        assert parse(config.command()) == config


def test_a_recipes_settings_give_way_to_flags(tmp_path):
    from trainers.run import parse

    config = parse(["--recipe", "tsm-ffn-ssv2", "--data-root", str(tmp_path), "--lr", "0.5"])
    assert config.optim.lr == 0.5 and config.optim.epochs == 50 and config.out.name == "tsm-ffn-ssv2"
