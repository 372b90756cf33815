"""One test per private name of Ray: a failure here means that a Ray upgrade moved or changed that name."""

import functools
import inspect
import io
import json
import logging
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler
from reservations import reserve, reserved

from evclip_ray import ray_internals

LAUNCHER = {
    "cluster_name": "small",
    "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": []},
    "auth": {"ssh_user": "user"},
}


def call(function, *args, **kwargs):
    """Call a function of `ray_internals`; report a moved name as such."""
    try:
        return function(*args, **kwargs)
    except (ImportError, AttributeError, TypeError) as error:
        pytest.fail(
            f"Ray {ray.__version__} moved or changed a private name; adapt "
            f"`{function.__name__}` in evclip_ray/ray_internals.py: {type(error).__name__}: {error}"
        )


def test_head_resource(local_ray):
    assert [node["Resources"].get(ray_internals.HEAD_RESOURCE) for node in ray.nodes()] == [1.0]


def test_bootstrap_address(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert call(ray_internals.bootstrap_address) is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    assert call(ray_internals.bootstrap_address) == "10.0.0.1:6379"


def test_redirect_messages(monkeypatch, capsys, caplog):
    from ray._private import worker

    # Restored after the test.
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    caplog.set_level("INFO")
    for _ in range(2):
        call(ray_internals.redirect_messages)
    deaths = ("Raylet is terminated. Termination is unexpected.", "A worker died or was killed while ...")
    for text in (*deaths, "Another message."):
        message = {"lines": [text], "pid": "raylet", "is_err": False}
        call(worker.print_to_stdstream, message, ignore_prefix=False)
    printed = "".join(capsys.readouterr())
    assert "Another message." in printed
    assert not [text for text in deaths if text in printed]
    assert all(text in caplog.text for text in deaths)


def test_kept_messages_do_not_reach_the_terminal(monkeypatch, capsys):
    from ray._private import worker
    from ray._private.log import PlainRayHandler

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    # Both are removed after the test.
    monkeypatch.setattr(PlainRayHandler, "stream", None, raising=False)
    monkeypatch.setattr(ray_internals._Messages, "stream", stream := io.StringIO())
    call(ray_internals.redirect_messages)
    message = {"lines": ["A task failed.", "It is tried again."], "pid": "raylet", "is_err": False}
    call(worker.print_to_stdstream, message, ignore_prefix=False)
    PlainRayHandler().emit(logging.makeLogRecord({"msg": "an error of Ray", "levelno": logging.ERROR}))
    assert stream.getvalue() == "A task failed.\nIt is tried again.\nan error of Ray\n"
    assert "".join(capsys.readouterr()) == ""


def test_canonical_address():
    host, _, port = call(ray_internals.canonical_address, "localhost:6379").rpartition(":")
    assert (host.replace(".", "").isdigit(), port) == (True, "6379")
    with pytest.raises(ValueError, match="no-port"):
        call(ray_internals.canonical_address, "no-port")


@pytest.mark.parametrize(
    ("mode", "headers"), [("token", {"authorization": f"Bearer {'a' * 32}"}), ("disabled", {})]
)
def test_auth_headers(mode, headers):
    code = (
        "import json; from evclip_ray import ray_internals; print(json.dumps(ray_internals.auth_headers()))"
    )
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "a" * 32}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == headers


def test_free_resources(local_ray):
    free = call(ray_internals.free_resources)
    assert [node["CPU"] for node in free.values()] == [2.0]
    assert list(free) == [node["NodeID"] for node in ray.nodes()]


def test_stored_value(local_ray):
    call(ray_internals.store_value, "key", "value", namespace="one")
    assert call(ray_internals.stored_value, "key", namespace="one") == "value"
    assert call(ray_internals.stored_value, "key", namespace="two") is None
    call(ray_internals.store_value, "key", None, namespace="one")
    assert call(ray_internals.stored_value, "key", namespace="one") is None


def test_propagate_to_workers(monkeypatch):
    from ray.train.v2._internal import constants

    monkeypatch.setattr(constants, "ENV_VARS_TO_PROPAGATE", set(constants.ENV_VARS_TO_PROPAGATE))
    call(ray_internals.propagate_to_workers, "NAME_OF_OURS")
    monkeypatch.setenv("NAME_OF_OURS", "1")
    assert constants.get_env_vars_to_propagate()["NAME_OF_OURS"] == "1"


def test_cancel_reservation(local_ray):
    reserve("train-gone")
    assert reserved("train-gone")
    call(ray_internals.cancel_reservation, "train-gone")
    assert not reserved("train-gone")


def test_launcher_schema():
    schema = json.loads(call(ray_internals.launcher_schema).read_text())
    assert "cluster_name" in schema["properties"]


def test_check_launcher_config():
    from jsonschema import ValidationError

    call(ray_internals.check_launcher_config, LAUNCHER)
    with pytest.raises(ValidationError, match="no_such_key"):
        call(ray_internals.check_launcher_config, {**LAUNCHER, "no_such_key": 1})


def test_repeat_brackets():
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch", metric="score", mode="max", max_t=9, grace_period=1, reduction_factor=3, brackets=2
    )
    call(ray_internals.repeat_brackets, scheduler, 2)
    given = []

    def choose(index, rungs):
        given.append(list(rungs))
        return index

    for index, score in ((0, 0.9), (2, 0.1), (0, 0.5)):
        trial = SimpleNamespace(trial_id=f"{index} {score}")
        scheduler.on_trial_add(None, trial)
        ray_internals.assign_bracket(scheduler, trial.trial_id, functools.partial(choose, index))
        action = scheduler.on_trial_result(None, trial, {"epoch": 1, "score": score})
        assert (action == scheduler.STOP) == (score == 0.5), "copies of a bracket do not share results"
    assert given == [[3, 2, 3, 2]] * 3


def test_assign_bracket():
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch", metric="score", mode="max", max_t=9, grace_period=1, reduction_factor=3, brackets=2
    )
    given = []

    def choose_last(rungs):
        given.append(list(rungs))
        return 1

    for number in range(6):
        trial = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        call(ray_internals.assign_bracket, scheduler, trial.trial_id, choose_last)
        action = scheduler.on_trial_result(None, trial, {"epoch": 1, "score": -number})
        assert action == scheduler.CONTINUE, "the second bracket stops no trial in the first epoch"
    assert given == [[3, 2]] * 6


@pytest.mark.slow
def test_wait_for_ended_trials(local_ray, tmp_path):
    def train(config):
        ray_internals.wait_for_ended_trials(60)
        try:
            for epoch in range(2):
                tune.report({"epoch": epoch})
        finally:
            time.sleep(3)

    results = tune.Tuner(
        train,
        tune_config=tune.TuneConfig(num_samples=2, max_concurrent_trials=1, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 1}, verbose=0),
    ).fit()
    assert (results.num_terminated, results.num_errors) == (2, 0)


def test_is_slow_start(tmp_path):
    from ray._private import node

    with pytest.raises(RuntimeError) as caught:
        node.wait_for_persisted_port(str(tmp_path), "ab" * 28, node.GCS_SERVER_PORT_NAME, timeout_ms=10)
    assert ray_internals.is_slow_start(caught.value)
    assert not ray_internals.is_slow_start(RuntimeError("another"))
    source = inspect.getsource(node)
    assert '"The current node timed out during startup.' in source
    assert "Failed to {'start' if self.head" in source
