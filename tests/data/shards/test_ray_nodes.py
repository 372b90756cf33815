"""Nodes of the cluster: missing video storage is reported and does not count as damaged videos."""

import platform

import numpy as np
import pytest
from synthetic_videos import write_synthetic

from evclip_ray.data.manifest.manifest import read_manifest
from evclip_ray.data.shards.prepare import _plan, _videos
from evclip_ray.data.shards.ray_nodes import require_mounted, restrict_to
from evclip_ray.data.storage import StorageError
from evclip_ray.data.video.view import ViewConfig

VIEW = ViewConfig(num_frames=4, height=32, width=32)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    manifest = read_manifest(write_synthetic(folder, videos_per_class=3, size=32, num_frames=8))
    [job] = _plan(_videos(manifest, np.arange(len(manifest))), VIEW, 1, 0, 100)
    return job, manifest.root


def test_node_without_the_videos_is_named_with_their_folder(job, tmp_path):
    job, root = job
    require_mounted(job, root)
    # An empty mount point, then no mount point.
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            StorageError, match=rf"node {platform.node()} has none of .* in {folder} .*mounts"
        ):
            require_mounted(job, folder)


def test_videos_absent_at_planning_do_not_count(job, tmp_path):
    job, _ = job
    job.videos[:] = [video | {"bytes": None} for video in job.videos]
    require_mounted(job, tmp_path)


def test_tasks_are_restricted_to_the_given_nodes():
    assert restrict_to([]) == {}
    assert restrict_to(["a", "b"])["label_selector"] == {"ray.io/node-id": "in(a,b)"}
