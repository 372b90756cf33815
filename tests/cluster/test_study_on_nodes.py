"""A study on several nodes: the same points as on one, whatever node or process is killed meanwhile."""

import json
import signal

import numpy as np
import pytest
import yaml

from tests.cluster.killable import history, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
EPOCHS = 12
TRIAL = "ImplicitFunc"  # what Ray calls Tune's trials


@pytest.fixture
def space(tiny_manifest, tiny_videos, debug_settings, tmp_path):
    """Writes a space of random points over the tiny videos, of which no trial is stopped early."""

    def write(epochs=EPOCHS, **study):
        path = tmp_path / "space.yaml"
        data = {
            "fixed": {"data.manifest": str(tiny_manifest), **debug_settings, "optim.epochs": epochs},
            "search": {
                "optim.lr": {"loguniform": [1e-4, 1e-2]},
                "method.prompts": {"choice": ["both", "mask", "context"]},
            },
            "study": {
                "trials": 4, "sampler": "random", "scheduler": "none", "seed": 3, "memory_gb": 0.3, **study,
            },
        }  # fmt: skip
        path.write_text(yaml.safe_dump(data))
        return path

    return write


@pytest.fixture
def tune(cluster, tiny_cache, tmp_path):
    """Starts a study, or goes on with it; what it says is in `log.txt`."""

    def start(space, out="study", *options):
        where = options or ("--address", cluster.address)
        return cluster.start(
            "tune", space, "--out", tmp_path / out, "--cache", tiny_cache, *where, log=tmp_path / "log.txt"
        )

    return start


def finish(process, tmp_path):
    assert process.wait(timeout=400) == 0, (tmp_path / "log.txt").read_text()


def trials(study):
    """Each trial's point and epochs."""
    return {
        folder.name: (json.loads((folder / "point.json").read_text())["overrides"], history(folder))
        for folder in sorted((study / "trials").glob("trial-*"))
    }


def require_whole(study, epochs=EPOCHS, count=4):
    found = trials(study)
    assert len(found) == count
    for name, (_, metrics) in found.items():
        assert [epoch["epoch"] for epoch in metrics] == list(range(1, epochs + 1)), name
        assert json.loads((study / "trials" / name / "result.json").read_text())["state"] == "complete"
    return found


def test_three_nodes_finish_the_points_that_one_does(nodes, space, tune, tmp_path):
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


def test_a_killed_node_costs_its_trial_at_most_an_epoch(nodes, space, tune, tmp_path):
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
    # An epoch that was finished before the loss is not trained again: its line, with its seconds, stands.
    for name, metrics in before.items():
        assert after[name][1][: len(metrics)] == metrics


def test_a_node_that_joins_takes_trials(cluster, space, tune, tmp_path):
    cluster.having(1)
    process = tune(space())
    wait_until(lambda: trials(tmp_path / "study"), of=process)
    (newcomer,) = cluster.join(1)
    wait_until(lambda: newcomer.working(TRIAL), of=process)
    wait_until(lambda: len(trials(tmp_path / "study")) >= 2, of=process)
    finish(process, tmp_path)
    require_whole(tmp_path / "study")


def test_a_killed_command_goes_on_where_it_was(nodes, space, tune, tmp_path):
    process = tune(space())
    study = tmp_path / "study"

    def one_is_done_and_another_under_way():
        lengths = sorted(len(metrics) for _, metrics in trials(study).values())
        done = list((study / "trials").glob("*/result.json"))
        return done and any(2 <= length < EPOCHS - 2 for length in lengths)

    wait_until(one_is_done_and_another_under_way, of=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {name: metrics for name, (_, metrics) in trials(study).items()}
    finish(tune(space()), tmp_path)
    after = require_whole(study)
    for name, metrics in before.items():
        assert after[name][1][: len(metrics)] == metrics
