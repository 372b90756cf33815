import pytest

from evclip_ray.cluster.autoscaler import possible_machines, worker_machines
from evclip_ray.config import ConfigError

CONFIG = """
max_workers: 5
head_node_type: head
provider: {type: aws}
available_node_types:
  head: {resources: {CPU: 0}, max_workers: 0}
  gpu: {resources: {CPU: 8, GPU: 1}, max_workers: 2}
  cpu: {resources: {CPU: 16}, max_workers: 1}
"""


def test_possible_machines_include_all_workers(tmp_path, monkeypatch):
    path = tmp_path / "cluster.yaml"
    path.write_text(CONFIG)
    monkeypatch.setenv("EVCLIP_RAY_CLUSTER", str(path))
    assert possible_machines() == [{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}, {"CPU": 16}]


def test_no_possible_machines_without_an_autoscaler(tmp_path, monkeypatch):
    monkeypatch.delenv("EVCLIP_RAY_CLUSTER", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert possible_machines() is None
    assert worker_machines({"provider": {"type": "local"}, "available_node_types": {}}) is None


def test_missing_cluster_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("EVCLIP_RAY_CLUSTER", str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        possible_machines()
