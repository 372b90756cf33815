"""Resources that a killed worker group had reserved (ray_trainer.py)."""

import ray
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)

from evclip_ray.training.ray_trainer import release_places


def test_reservation_of_a_killed_group_is_released_once(local_ray, tmp_path):
    def reserved():
        return ray.get(client._autoscaling_coordinator.get_reserved_resources.remote("train-gone"))

    client = TrainAutoscalingCoordinatorClient("train-gone")
    client.send_resource_request(ScalingConfig(num_workers=(1, 2)), 2)
    assert reserved()
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "reservation").write_text("train-gone")
    release_places(tmp_path)
    assert not reserved()
    assert not (tmp_path / ".ray").exists()
    release_places(tmp_path)
