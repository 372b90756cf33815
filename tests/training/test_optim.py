import itertools
import json

import pytest

from evclip_ray.training.experiment import ExperimentConfig, OptimConfig
from evclip_ray.training.optim import learning_rate


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
