"""Cost of a study, computed from one measured step."""

import pytest

from evclip_ray.profiling import step_time
from evclip_ray.profiling.step_time import StepCost, measure_step
from evclip_ray.training.matrix_rate import MatrixRate
from evclip_ray.training.resources import GIB, ResourceRequest
from evclip_ray.tuning.cost import StudyCost

STEP = StepCost(
    seconds=2.0,
    flop=1e12,
    scoring=0.5,
    kept=("video_map",),
    frozen={"video_map": 3.0, "frame_features": 1.0},
    num_trainable=10,
    weights={"clip": "random"},
    device="cuda:0",
    videos=16,
    input_seconds=0.5,
    rate=MatrixRate(5e12, "a card", "bfloat16"),
)


def cost(**changes):
    facts = {
        "step": STEP,
        "request": ResourceRequest(1, 0.5, GIB),
        "epochs": 10,
        "steps_per_epoch": 40,
        "val_videos": 20,
        "frozen_views": {"video_map": 1000},
        "trials": 8,
        "concurrent": 2,
        "price": 3.0,
    }
    return StudyCost(**{**facts, **changes})


def test_frozen_work_counts_once_and_epochs_per_trial():
    study_cost = cost()
    assert study_cost.epoch_seconds == 40 * 2.0 + 20 * 0.5
    assert study_cost.trial_seconds == 900.0
    assert study_cost.once_seconds == 3000.0
    lines = dict(study_cost.lines())
    assert lines["once"] == "video_map of 1,000 views: 50 min, 0.833 GPU-hours (2.50 at 3 per hour)"
    assert lines["a trial"] == "15 min, 0.125 GPU-hours (0.38 at 3 per hour)"
    # Eight trials on two slots take four rounds. Device-hours: 0.833 + 8 x 0.125.
    assert "about 1.8 h, 1.83 GPU-hours (5.50 at 3 per hour)" in lines["at most"]
    assert "video_map read from disk" in lines["a step"]
    assert lines["speed"] == "500 GFLOP/s, 10 % of the matrix rate (5 TFLOP/s in bfloat16 on a card)"
    assert lines["input"] == ("20 % of a step, without the disk; 80 % of the bare model's 8 videos/s remain")


def test_trials_that_fit_exclude_the_frozen_work():
    assert cost().trials_within(3000 + 2000) == 4
    assert cost().trials_within(100) == 0
    assert dict(cost().lines(5000))["in time"].startswith("83 min: about 4 trials")
    assert "at most" not in dict(cost(trials=float("inf")).lines(5000))


def test_cost_without_gpus_counts_cpus_and_no_price():
    lines = dict(cost(request=ResourceRequest(4, 0, GIB, workers=2), price=None).lines())
    assert lines["a trial"] == "15 min, 2 CPU-hours"


@pytest.fixture(autouse=True)
def rate(monkeypatch):
    """Measure no matrix products."""
    monkeypatch.setattr(step_time, "matrix_rate", lambda *_: STEP.rate)


@pytest.mark.parametrize(("bank", "kept"), [(None, ()), (2, ("video_map",))])
def test_step_is_measured_as_in_a_trial(make_experiment, bank, kept):
    experiment = make_experiment(data__bank=bank, method__prompts="both")
    measured = measure_step(experiment, ["walk", "run"], cpus=1)
    assert measured.kept == kept
    assert measured.input_seconds > 0
    assert set(measured.frozen) == ({"video_map", "frame_features"} if bank else set())


def test_step_with_cached_features_computes_less(make_experiment):
    costs = [
        measure_step(make_experiment(data__bank=bank, method__prompts="both"), ["walk", "run"], cpus=1)
        for bank in (None, 2)
    ]
    assert costs[1].flop < costs[0].flop


def test_operations_are_counted_in_a_step_that_reads_values(make_experiment, monkeypatch):
    def fail(*_):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!")

    monkeypatch.setattr(step_time, "useful_flop", fail)
    assert measure_step(make_experiment(), ["walk", "run"], cpus=1).flop > 0
