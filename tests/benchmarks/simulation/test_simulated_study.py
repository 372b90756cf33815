"""Simulated study: conserved quantities, closed forms and monotonicity."""

import math

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler
from simulation.plan import ClusterPlan
from simulation.study import simulate
from simulation.timesheet import Doing

from evclip_ray.config import ConfigError
from evclip_ray.objective import OBJECTIVE

PLAN = {
    "study": {"trials": 20, "scheduler": "none"},
    "epochs": 9,
    "trial": {"source": "a test", "start_seconds": 5, "next_seconds": 1, "epoch_seconds": 10},
    "driver": {"source": "a test"},
    "videos": {"source": "a test", "count": 0},
    "cluster": {"source": "a test", "network_bytes": 1e9, "storage_bytes": 1e9},
}
ASHA = {"study.scheduler": "asha", "study.grace_epochs": 1, "study.trials": 60}
EVERYTHING = {
    **ASHA,
    "trial.epoch_spread": 0.3,
    "trial.checkpoint_bytes": 5e8,
    "trial.report_seconds": 0.01,
    "driver.begin_seconds": 0.1,
    "driver.result_seconds": 0.2,
    "driver.end_seconds": 0.3,
    "driver.end_per_epoch": 0.001,
    "driver.result_per_trial": 0.001,
    "driver.startup_seconds": 2,
    "videos.count": 200,
    "videos.frames_spread": 0.5,
    "videos.views": 2,
    "videos.view_bytes": 1e6,
    "videos.decode_seconds": 0.01,
    "videos.feature_seconds": 1,
    "videos.feature_bytes": 1e5,
    "videos.network_seconds": 3,
    "cluster.gpus_per_node": 2,
    "cluster.node_start_seconds": 60,
    "cluster.losses_per_hour": 5,
}


def run(gpus, overrides=None, **dotted):
    changed = {name.replace("__", "."): value for name, value in dotted.items()}
    return simulate(ClusterPlan.load(PLAN, {**(overrides or {}), **changed}), gpus)


@pytest.mark.parametrize("gpus", [1, 3, 8, 20, 33])
def test_study_without_stopping_takes_whole_rounds(gpus):
    rounds = math.ceil(20 / gpus)
    assert run(gpus).seconds == pytest.approx(rounds * 90 + 5 + (rounds - 1) * 1)


@pytest.mark.parametrize("gpus", [1, 4, 100])
@pytest.mark.parametrize("overrides", [{}, ASHA, EVERYTHING])
def test_trials_end_once_and_gpu_seconds_add_up(gpus, overrides):
    found = run(gpus, overrides)
    assert [trial.number for trial in found.trials] == list(range(overrides.get("study.trials", 20)))
    assert all(trial.ends == 1 for trial in found.trials)
    assert all(trial.stopped == (trial.epochs < 9) for trial in found.trials)
    assert sum(found.gpu_seconds.values()) == pytest.approx(gpus * found.seconds)
    assert all(seconds >= 0 for seconds in found.gpu_seconds.values())
    assert found.driver_seconds <= found.seconds
    assert found.storage_busy_seconds <= found.seconds * (1 + 1e-9)


def test_training_time_equals_reported_epochs():
    found = run(4, ASHA)
    epochs = sum(trial.epochs for trial in found.trials)
    assert found.gpu_seconds[Doing.TRAINING] == pytest.approx(10 * epochs)
    assert len(found.heard) == epochs


def test_seed_determines_the_study():
    assert run(4, EVERYTHING).row() == run(4, EVERYTHING).row()
    assert run(4, EVERYTHING).row() != run(4, EVERYTHING, study__seed=1).row()


def test_decisions_match_rays_scheduler():
    found = run(4, ASHA)
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch", metric=OBJECTIVE, mode="max", max_t=9, grace_period=1, reduction_factor=3
    )
    from types import SimpleNamespace

    from simulation.curves import Curves

    curves, known = Curves(epochs=9, seed=0), {}
    for trial, epoch, decision in found.heard:
        if trial not in known:
            known[trial] = SimpleNamespace(trial_id=str(trial))
            scheduler.on_trial_add(None, known[trial])
        result = {"epoch": epoch, OBJECTIVE: float(curves.of(trial)[epoch - 1])}
        assert scheduler.on_trial_result(None, known[trial], result) == decision
    # About a third continues at each of the rungs 1 and 3. Early trials meet few competitors.
    assert 1 / 2 < sum(trial.stopped for trial in found.trials) / 60 < 0.95
    assert {trial.epochs for trial in found.trials} == {1, 3, 9}


@pytest.mark.parametrize("path", ["cluster.storage_bytes", "cluster.network_bytes"])
def test_more_bandwidth_never_slows_a_study(path):
    slow = {"trial.checkpoint_bytes": 2e9, "videos.count": 50, "videos.view_bytes": 1e8, **{}}
    taken = [run(8, slow, **{path.replace(".", "__"): rate}).seconds for rate in (1e7, 1e8, 1e9, 1e10)]
    assert taken == sorted(taken, reverse=True)
    assert taken[0] > 2 * taken[-1]


def test_more_gpus_never_slow_a_study_without_stopping():
    taken = [run(gpus).seconds for gpus in (1, 2, 4, 8, 16, 32)]
    assert taken == sorted(taken, reverse=True)


def test_gpus_wait_for_a_driver_slower_than_an_epoch():
    found = run(16, driver__result_seconds=5)
    assert found.idle()[0][0] == Doing.DRIVER
    assert found.driver_share > 0.95
    assert found.seconds == pytest.approx(20 * 9 * 5, rel=0.1)


def test_node_copies_once_for_all_its_gpus():
    videos = {"videos.count": 100, "videos.view_bytes": 1e6}
    nothing_else = run(8, videos, cluster__gpus_per_node=8).storage_bytes
    assert run(8, videos, cluster__gpus_per_node=2).storage_bytes - nothing_else == pytest.approx(3 * 1e8)


def test_lost_machine_costs_its_epoch_and_the_restart():
    calm = run(4)
    stormy = run(4, cluster__losses_per_hour=20, cluster__node_start_seconds=30)
    times = sum(trial.lost for trial in stormy.trials)
    assert times > 3
    assert 0 < stormy.gpu_seconds[Doing.LOST] <= 10 * times + 5 * 4 * 20
    assert stormy.gpu_seconds[Doing.TRAINING] == pytest.approx(calm.gpu_seconds[Doing.TRAINING])
    assert stormy.seconds > calm.seconds


def test_study_waits_for_late_machines():
    assert run(4, cluster__node_start_seconds=300).seconds == pytest.approx(run(4).seconds + 300)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"trial.epoch_second": 1}, "trial.epoch_second: unknown setting; did you mean"),
        ({"study.trials": None}, "study.trials must be a number"),
        ({"videos.count": 5, "cluster.cpus_per_node": 0}, "nothing can decode"),
        ({"cluster.storage_bytes": 0}, "cluster.storage_bytes"),
    ],
)
def test_invalid_plan_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        ClusterPlan.load(PLAN, overrides)


def test_cluster_without_gpu_is_refused():
    with pytest.raises(ValueError, match="1 GPU or more, got 0"):
        run(0)
