import itertools
import json

import pytest
import torch
from torch import nn

from evclip_ray.training.experiment import ExperimentConfig, OptimConfig
from evclip_ray.training.optim import learning_rate, make_optimizer, set_learning_rate


def rates(optim, steps_per_epoch):
    total = optim.epochs * steps_per_epoch
    return [learning_rate(step, steps_per_epoch=steps_per_epoch, optim=optim) for step in range(total)]


def test_rate_rises_in_the_warm_up_and_falls_to_near_zero():
    curve = rates(OptimConfig(lr=1.0, epochs=10, warmup_epochs=2, warmup_lr=0.0), 5)
    assert curve[9] == 1.0
    assert all(a < b for a, b in itertools.pairwise(curve[:10]))
    assert all(a >= b for a, b in itertools.pairwise(curve[10:]))
    assert curve[-1] < 0.01


def test_single_step_has_a_positive_rate():
    assert rates(OptimConfig(lr=1.0, epochs=1), 1) == [1.0]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ucf101_video_vifi/omniS_vit_b16", {}),
        ("arid/omniS_vit_b16", {"optim.lr": 2e-4, "optim.warmup_lr": 1e-5, "optim.epochs": 400}),
    ],
)
def test_published_preset_has_the_published_rates(shared, name, changes):
    published = json.loads((shared / "oracle" / "evclip_lr_per_epoch.json").read_text())[name]
    experiment = ExperimentConfig.load({"preset": "published", "data": {"manifest": "x.csv"}}, changes)
    curve = rates(experiment.optim, 3)[::3]
    assert curve == pytest.approx(published, rel=1e-9)


def parameters():
    """Return a matrix and a scalar, all ones."""
    return [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(()))]


def after_one_step(optim, *, gradient, rate):
    matrix, scalar = trained = parameters()
    optimizer = make_optimizer(trained, optim)
    for parameter in trained:
        parameter.grad = torch.full_like(parameter, gradient)
    set_learning_rate(optimizer, rate)
    optimizer.step()
    return matrix[0, 0].item(), scalar.item()


def test_scalars_learn_by_the_factor_faster():
    optim = OptimConfig(weight_decay=0, scalar_lr_factor=30)
    # The first step of AdamW moves every number by the learning rate.
    assert after_one_step(optim, gradient=1.0, rate=1e-3) == pytest.approx((0.999, 0.97))


def test_scalars_decay_as_without_a_factor():
    moved = [
        after_one_step(OptimConfig(weight_decay=0.1, scalar_lr_factor=factor), gradient=0.0, rate=1e-2)
        for factor in (1, 30)
    ]
    assert moved[0] == moved[1] == pytest.approx((0.999, 0.999))


def test_factor_of_one_keeps_one_group():
    assert len(make_optimizer(parameters(), OptimConfig()).param_groups) == 1
    assert (
        len(
            make_optimizer([torch.nn.Parameter(torch.ones(2))], OptimConfig(scalar_lr_factor=30)).param_groups
        )
        == 1
    )


def test_factor_of_one_is_left_out_of_dumps():
    assert "scalar_lr_factor" not in OptimConfig().model_dump(mode="json")
    assert OptimConfig(scalar_lr_factor=30).model_dump(mode="json")["scalar_lr_factor"] == 30
