"""A node that lacks the videos' storage says so; its videos are not bad ones."""

import platform

import numpy as np
import pytest

from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards.prepare import _plan, _videos
from evclip_ray.data.shards.ray_nodes import only_on, require_seen
from evclip_ray.data.storage import StorageError
from evclip_ray.data.synthetic import write_synthetic
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=32, width=32)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    manifest = read_manifest(write_synthetic(folder, videos_per_class=3, size=32, num_frames=8))
    [job] = _plan(_videos(manifest, np.arange(len(manifest))), VIEW, 1, 0, 100)
    return job, manifest.root


def test_a_node_that_sees_nothing_of_the_videos_is_named_with_their_folder(job, tmp_path):
    job, root = job
    require_seen(job, root)
    # An empty mount point, then none.
    for where in (tmp_path, tmp_path / "absent"):
        with pytest.raises(StorageError, match=rf"node {platform.node()} sees nothing of {where} .*mounts"):
            require_seen(job, where)


def test_a_video_that_was_absent_before_is_no_sign_of_a_missing_storage(job, tmp_path):
    job, _ = job
    job.videos[:] = [video | {"bytes": None} for video in job.videos]
    require_seen(job, tmp_path)


def test_tasks_keep_to_the_nodes_that_are_named():
    assert only_on([]) == {}
    assert only_on(["a", "b"])["label_selector"] == {"ray.io/node-id": "in(a,b)"}
