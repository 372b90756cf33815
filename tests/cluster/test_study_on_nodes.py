"""Studies on several nodes: same points as on one node, and recovery from killed nodes and processes."""

import json
import signal

import numpy as np
import pytest
import yaml
from killable import history, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
EPOCHS = 12
TRIAL = "ImplicitFunc"  # Class name of the actors of function trainables in Tune.


@pytest.fixture
def space(tiny_manifest, tiny_videos, debug_settings, tmp_path):
    """Return a function that writes a space of random points without early stopping."""

    def write(epochs=EPOCHS, **study):
        path = tmp_path / "space.yaml"
        data = {
            "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, "optim.epochs": epochs},
            "search": {
                "optim.lr": {"loguniform": [1e-4, 1e-2]},
                "method.prompts": {"choice": ["both", "mask", "context"]},
            },
            "study": {
                "trials": 4,
                "sampler": "random",
                "scheduler": "none",
                "seed": 3,
                "memory_gb": 0.3,
                **study,
            },
        }
        path.write_text(yaml.safe_dump(data))
        return path

    return write


@pytest.fixture
def tune(cluster, tiny_cache, tmp_path):
    """Return a function that starts or resumes a study, with its output in `log.txt`."""

    def start(space, out="study", *options):
        where = options or ("--address", cluster.address)
        return cluster.start(
            "tune", space, "--out", tmp_path / out, "--cache", tiny_cache, *where, log=tmp_path / "log.txt"
        )

    return start


def finish(process, tmp_path):
    assert process.wait(timeout=400) == 0, (tmp_path / "log.txt").read_text()


def trials(study):
    """Return the point and the epochs of each trial."""
    return {
        folder.name: (json.loads((folder / "point.json").read_text())["overrides"], history(folder))
        for folder in sorted((study / "trials").glob("trial-*"))
    }


def require_whole(study, epochs=EPOCHS, count=4):
    by_name = trials(study)
    assert len(by_name) == count
    for name, (_, metrics) in by_name.items():
        assert [epoch["epoch"] for epoch in metrics] == list(range(1, epochs + 1)), name
        assert json.loads((study / "trials" / name / "result.json").read_text())["state"] == "complete"
    return by_name


def test_several_nodes_run_the_same_points_as_one(nodes, space, tune, tmp_path):
    process = tune(space(epochs=3))
    wait_until(lambda: all(node.working(TRIAL) for node in nodes), of=process)
    finish(process, tmp_path)
    finish(tune(space(epochs=3), "alone", "--cpus-per-worker", 1), tmp_path)
    spread, single = require_whole(tmp_path / "study", 3), require_whole(tmp_path / "alone", 3)
    for name, (point, metrics) in single.items():
        assert spread[name][0] == point
        for mine, theirs in zip(metrics, spread[name][1], strict=True):
            for key in ("val_top1", "val_loss", "train_loss", "grad_norm"):
                np.testing.assert_allclose(theirs[key], mine[key], rtol=1e-5, err_msg=f"{name}: {key}")


def test_killed_node_costs_at_most_one_epoch(nodes, space, tune, tmp_path):
    process = tune(space())
    lost = nodes[0]

    def both_train():
        begun = [metrics for _, metrics in trials(tmp_path / "study").values() if len(metrics) >= 2]
        return len(begun) >= 2 and lost.working(TRIAL)

    wait_until(both_train, of=process)
    lost.kill()
    before = {name: metrics for name, (_, metrics) in trials(tmp_path / "study").items()}
    finish(process, tmp_path)
    after = require_whole(tmp_path / "study")
    # Epochs finished before the loss are not trained again: their lines, with the seconds, are unchanged.
    for name, metrics in before.items():
        assert after[name][1][: len(metrics)] == metrics


def test_joining_node_takes_trials(cluster, space, tune, tmp_path):
    cluster.having(1)
    process = tune(space())
    wait_until(lambda: trials(tmp_path / "study"), of=process)
    (newcomer,) = cluster.join(1)
    wait_until(lambda: newcomer.working(TRIAL), of=process)
    wait_until(lambda: len(trials(tmp_path / "study")) >= 2, of=process)
    finish(process, tmp_path)
    require_whole(tmp_path / "study")


def test_killed_command_resumes_its_trials(nodes, space, tune, tmp_path):
    process = tune(space())
    study = tmp_path / "study"

    def one_ended_and_one_is_running():
        lengths = sorted(len(metrics) for _, metrics in trials(study).values())
        done = list((study / "trials").glob("*/result.json"))
        return done and any(2 <= length < EPOCHS - 2 for length in lengths)

    wait_until(one_ended_and_one_is_running, of=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {name: metrics for name, (_, metrics) in trials(study).items()}
    finish(tune(space()), tmp_path)
    after = require_whole(study)
    for name, metrics in before.items():
        assert after[name][1][: len(metrics)] == metrics
