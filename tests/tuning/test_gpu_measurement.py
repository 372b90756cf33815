"""Measurement of a step on a GPU of the cluster."""

import types

import pytest

from evclip_ray.tuning import gpu_measurement


def test_measurement_on_a_gpu_that_is_not_free_ends(monkeypatch):
    cancelled = []

    def get(running, *, timeout):
        raise gpu_measurement.ray.exceptions.GetTimeoutError

    task = types.SimpleNamespace(remote=lambda *args, **options: "running")
    monkeypatch.setattr(gpu_measurement.ray, "remote", lambda **options: lambda function: task)
    monkeypatch.setattr(gpu_measurement.ray, "get", get)
    monkeypatch.setattr(gpu_measurement.ray, "cancel", lambda running, force: cancelled.append(running))
    with pytest.raises(ValueError, match=r"within 30 minutes.* --gpus-per-worker 1"):
        gpu_measurement.measure_on_gpu(None, (), 1.0)
    assert cancelled == ["running"]
