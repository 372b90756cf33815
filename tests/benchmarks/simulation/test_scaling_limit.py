"""Scaling limit of a simulated study and the reason that it reports."""

from simulation.plan import ClusterPlan
from simulation.scaling import last_efficient, where_it_stops
from simulation.study import simulate

PLAN = {
    "study": {"trials": 32, "scheduler": "none"},
    "epochs": 4,
    "trial": {"source": "a test", "start_seconds": 1, "epoch_seconds": 10},
    "driver": {"source": "a test"},
    "videos": {"source": "a test", "count": 0},
    "cluster": {"source": "a test", "network_bytes": 1e9, "storage_bytes": 1e9},
}
GPUS = (1, 2, 4, 8, 16, 32, 64, 128)


def runs(**dotted):
    changed = {name.replace("__", "."): value for name, value in dotted.items()}
    return [simulate(ClusterPlan.load(PLAN, changed), gpus) for gpus in GPUS]


def test_number_of_trials_limits_scaling():
    found = runs()
    assert last_efficient(found).num_gpus == 32
    assert "at 64" in where_it_stops(found)
    assert "fewer trials than GPUs" in where_it_stops(found)


def test_slow_driver_limits_scaling():
    found = runs(driver__result_seconds=2)
    assert last_efficient(found).num_gpus <= 8
    assert "time goes to: waiting for the driver" in where_it_stops(found)


def test_slow_storage_limits_scaling():
    found = runs(trial__checkpoint_bytes=2e9)
    assert last_efficient(found).num_gpus <= 8
    assert "time goes to: files go to the storage" in where_it_stops(found)


def test_scaling_to_all_gpus_is_reported():
    assert "scales to all 16 GPUs" in where_it_stops(runs()[:5])
