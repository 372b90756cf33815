from pathlib import Path

import pytest
import ray
import yaml

from evclip_ray.cluster import connect
from evclip_ray.config import ConfigError

FILES = sorted((Path(__file__).resolve().parents[1] / "cluster").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_cluster_file_passes_rays_own_schema(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = path.read_text()
    assert content.startswith("#")
    assert "FILL IN" in content
    assert "COST" in content
    validate_config(prepare_config(yaml.safe_load(content)))


def test_connecting_gives_each_machines_resources_and_ends_what_it_started():
    assert not ray.is_initialized()
    with connect(num_cpus=3) as machines:
        assert [machine["CPU"] for machine in machines] == [3.0]
        with connect() as again:
            assert again == machines
        assert ray.is_initialized(), "an inner block must not end the outer one's Ray"
    assert not ray.is_initialized()


def test_an_address_where_nothing_answers_is_one_line(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="--address auto: no Ray answers there"), connect("auto"):
        pass
