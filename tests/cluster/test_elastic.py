"""Runs with several workers on several nodes give the numbers of one process, also if nodes come and go."""

import json
import os
import signal

import numpy as np
import pytest
import yaml
from killable import history, wait_until

from evclip_ray.training.loop import Run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
EPOCHS = 12
# A small learning rate, because with a large one rounding differences grow from epoch to epoch.
SETTINGS = {"optim__epochs": EPOCHS, "optim__lr": 1e-3}
# A group looks for more machines every minute. Two seconds keep the test short.
SOON = "import evclip_ray.training.ray_trainer as t; t._RESIZE_SECONDS = 2; "


@pytest.fixture(scope="module")
def alone(make_experiment, tiny_videos, tmp_path_factory):
    """Return the history of the same run in one process."""
    folder = tmp_path_factory.mktemp("alone")
    Run.start(make_experiment(**SETTINGS), tiny_videos, folder=folder).fit(lambda metrics: None)
    return history(folder)


@pytest.fixture
def train(cluster, make_experiment, tiny_cache, tmp_path):
    """Return a function that starts the run on the cluster, with its output in `log.txt`."""

    def start(*options, before=""):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(make_experiment(**SETTINGS).model_dump(mode="json")))
        return cluster.start(
            "train",
            path,
            "--out",
            tmp_path / "run",
            "--cache",
            tiny_cache,
            "--address",
            cluster.address,
            *options,
            log=tmp_path / "log.txt",
            before=before,
        )

    return start


def finish(process, tmp_path):
    assert process.wait(timeout=400) == 0, (tmp_path / "log.txt").read_text()
    return history(tmp_path / "run")


def require_same(history_of_run, expected):
    assert [epoch["epoch"] for epoch in history_of_run] == list(range(1, EPOCHS + 1))
    for mine, theirs in zip(expected, history_of_run, strict=True):
        for key in ("val_top1", "val_loss", "train_loss", "grad_norm"):
            np.testing.assert_allclose(theirs[key], mine[key], rtol=1e-3, err_msg=f"{mine['epoch']}: {key}")


def test_two_nodes_train_as_one_process_does(nodes, train, alone, tmp_path):
    process = train("--workers", 2)
    wait_until(lambda: all(node.working("RayTrainWorker") for node in nodes), of=process)
    wait_until(lambda: history(tmp_path / "run"), of=process)
    assert all(len(node.working("RayTrainWorker")) == 1 for node in nodes)
    require_same(finish(process, tmp_path), alone)


def test_one_worker_on_a_node_reports_its_epochs(nodes, train, alone, tmp_path):
    process = train()
    wait_until(lambda: "epoch   1  loss" in (tmp_path / "log.txt").read_text(), of=process)
    assert sum(len(node.working("RayTrainWorker")) for node in nodes) == 1
    require_same(finish(process, tmp_path), alone)
    assert f"epoch  {EPOCHS}  loss" in (tmp_path / "log.txt").read_text()


def test_elastic_group_shrinks_and_grows_again(cluster, nodes, train, alone, tmp_path):
    process = train("--workers", 2, "--min-workers", 1, before=SOON)
    lost, remaining = nodes
    wait_until(lambda: len(history(tmp_path / "run")) >= 2, of=process)
    lost.kill()
    before = history(tmp_path / "run")
    wait_until(lambda: len(history(tmp_path / "run")) > len(before), of=process)
    # Pause the worker in the middle of an epoch, so the run cannot end before the new node is up.
    (worker,) = remaining.working("RayTrainWorker")
    os.kill(worker, signal.SIGSTOP)
    resized = history(tmp_path / "run")
    (joined,) = cluster.join(1)
    wait_until(lambda: joined.working("RayTrainWorker"), of=process)
    after = finish(process, tmp_path)
    assert after[: len(resized)] == resized, "a finished epoch was trained again"
    require_same(after, alone)


def test_fixed_group_waits_for_a_replacement_node(cluster, nodes, train, alone, tmp_path):
    process = train("--workers", 2)
    wait_until(lambda: len(history(tmp_path / "run")) >= 2, of=process)
    nodes[0].kill()
    before = history(tmp_path / "run")
    cluster.join(1)
    after = finish(process, tmp_path)
    assert after[: len(before)] == before, "a finished epoch was trained again"
    require_same(after, alone)


def test_study_of_elastic_groups_survives_a_lost_node(
    cluster, nodes, tiny_manifest, tiny_videos, tiny_cache, debug_settings, tmp_path
):
    space = tmp_path / "space.yaml"
    data = {
        "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, "optim.epochs": 4},
        "search": {"optim.lr": {"loguniform": [1e-4, 1e-1]}},
        "study": {
            "trials": 3,
            "sampler": "random",
            "workers": 2,
            "min_workers": 1,
            "memory_gb": 0.3,
            "grace_epochs": 1,
            "reduction_factor": 2,
        },
    }
    space.write_text(yaml.safe_dump(data))
    process = cluster.start(
        "tune",
        space,
        "--out",
        tmp_path / "study",
        "--cache",
        tiny_cache,
        "--address",
        cluster.address,
        log=tmp_path / "log.txt",
    )
    first = tmp_path / "study" / "trials" / "trial-0000"
    wait_until(lambda: history(first), of=process)
    nodes[0].kill()
    assert process.wait(timeout=500) == 0, (tmp_path / "log.txt").read_text()
    ended = [json.loads(path.read_text())["state"] for path in first.parent.glob("*/result.json")]
    assert len(ended) == 3
    assert set(ended) <= {"complete", "stopped"}
    assert "1 to 2 workers of 1 CPU" in (tmp_path / "log.txt").read_text()
