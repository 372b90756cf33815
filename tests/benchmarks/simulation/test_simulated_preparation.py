"""Decoding and frozen features of a simulated study."""

import pytest
from simulation.plan import ClusterPlan
from simulation.study import simulate
from simulation.timesheet import Doing

PLAN = {
    "study": {"trials": 1, "scheduler": "none"},
    "epochs": 1,
    "trial": {"source": "a test", "start_seconds": 0, "epoch_seconds": 1},
    "driver": {"source": "a test"},
    "videos": {
        "source": "a test",
        "count": 4000,
        "frames": 92,
        "views": 1,
        "sampled_frames": 8,
        "bytes": 0,
        "decode_seconds": 0.01,
        "feature_seconds": 0.1,
    },
    "cluster": {"source": "a test", "network_bytes": 1e12, "storage_bytes": 1e12},
}


def run(gpus, **dotted):
    changed = {name.replace("__", "."): value for name, value in dotted.items()}
    return simulate(ClusterPlan.load(PLAN, changed), gpus)


def test_one_core_decodes_all_frames_one_gpu_all_views():
    # A video takes 1 s of decoding and 0.1 s of features.
    found = run(1)
    assert found.preparation_seconds == pytest.approx(4400)
    assert found.gpu_seconds[Doing.FEATURES] == pytest.approx(400)
    assert found.gpu_seconds[Doing.DECODING] == pytest.approx(4000)


def test_cores_share_shards_up_to_the_number_of_shards():
    # 20 shards of 200 videos.
    assert run(4).gpu_seconds[Doing.DECODING] == pytest.approx(4 * 1000)
    assert run(1, cluster__cpu_nodes=1, cluster__cpus_per_cpu_node=1000).preparation_seconds == pytest.approx(
        600
    )


def test_feature_work_is_independent_of_gpus():
    assert run(8, videos__views=3).gpu_seconds[Doing.FEATURES] == pytest.approx(1200)


def test_storage_bytes_of_videos_shards_and_features():
    found = run(1, videos__bytes=1e3, videos__view_bytes=10, videos__feature_bytes=3)
    # Videos are read; shards are written and read twice (features, node copy); features written and read.
    assert found.storage_bytes == pytest.approx(4000 * (1e3 + 10 + 10 + 3 + 10 + 3))
