"""Nodes of a cluster that decode (resources.py)."""

from evclip_ray.training.resources import ResourceRequest, decoding_nodes

GPUS = {"CPU": 8.0, "GPU": 2.0, "memory": 8e9}
CPUS = {"CPU": 8.0, "memory": 8e9}
HEAD = {"memory": 8e9}


def test_nodes_without_gpus_decode_and_nodes_without_cpus_do_not():
    nodes = {"head": HEAD, "a": GPUS, "b": CPUS, "c": CPUS}
    assert decoding_nodes(ResourceRequest(1, 1, 1e9), nodes) == ["b", "c"]
    assert decoding_nodes(ResourceRequest(1, 0.25, 1e9), nodes) == ["b", "c"]


def test_no_node_is_reserved_when_trials_fit_everywhere():
    assert decoding_nodes(ResourceRequest(1, 0, 1e9), {"head": HEAD, "a": GPUS, "b": CPUS}) == []
    assert decoding_nodes(ResourceRequest(1, 1, 1e9), {"a": GPUS}) == []


def test_node_too_small_for_a_trial_decodes():
    assert decoding_nodes(ResourceRequest(4, 0, 1e9), {"a": CPUS, "b": {"CPU": 2.0, "memory": 8e9}}) == ["b"]
