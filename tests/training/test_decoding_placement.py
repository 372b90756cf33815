"""Nodes of a cluster that decode (resources.py), and disk space for the shards (datamodule.py)."""

from types import SimpleNamespace

import pytest

from evclip_ray.training import datamodule
from evclip_ray.training.datamodule import check_space, plan_videos
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


def test_space_for_all_shards_is_checked_before_decoding(make_experiment, tmp_path, monkeypatch):
    plans = [plan_videos(make_experiment(view__num_frames=frames), cache=tmp_path) for frames in (4, 8)]
    each = {len(plan.rows["train"]) + len(plan.rows["val"]) for plan in plans}
    needed = each.pop() * 72 * 72 * 3 * (4 + 8)

    def free(size):
        monkeypatch.setattr(datamodule.shutil, "disk_usage", lambda folder: SimpleNamespace(free=size))

    free(needed)
    check_space(plans, cache=tmp_path)
    free(needed - 1)
    with pytest.raises(OSError, match=r"4 sets of videos \(4\.3 MiB are needed, 4\.3 MiB are free\)"):
        check_space(plans, cache=tmp_path)
    check_space(plans[:1], cache=tmp_path)
    begun = plans[0].folder("train", tmp_path)
    begun.mkdir(parents=True)
    (begun / "shard-00000.arrow").write_bytes(b"x")
    check_space(plans, cache=tmp_path)
