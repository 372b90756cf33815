"""Preparation of a simulated study: videos to frame shards, and frames to frozen features.

The shards are cut by the function that the shard stage uses. Each free core takes the next shard, each free
GPU the next file. Lost machines are not simulated in this phase.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from simpy.events import ProcessGenerator

from evclip_ray.data.shards.planning import cut
from simulation.plan import VideoCosts
from simulation.site import Site
from simulation.timesheet import Doing


class Task(NamedTuple):
    """Bytes to read from the storage, seconds of work, and bytes to write."""

    read: float
    seconds: float
    written: float


def prepare(site: Site) -> ProcessGenerator:
    """Decode the videos, then compute the features."""
    yield site.env.timeout(site.plan.cluster.node_start_seconds)
    videos = site.plan.videos
    if not videos.count:
        return
    shards = list(_shards(videos, seed=site.plan.study.seed))
    site.timesheet.enter_all(Doing.DECODING)
    tasks = deque(decode_tasks(videos, shards))
    yield site.env.all_of(
        [site.env.process(_decode(site, tasks)) for _ in range(min(site.cores, len(tasks)))]
    )
    if videos.feature_seconds:
        site.timesheet.enter_all(Doing.OTHERS_FEATURES)
        files = deque(feature_tasks(videos, shards))
        actors = range(min(site.num_gpus, len(files)))
        yield site.env.all_of([site.env.process(_encode(site, gpu, files)) for gpu in actors])


class _Shard(NamedTuple):
    videos: int
    work: float


def _shards(videos: VideoCosts, *, seed: int) -> Iterator[_Shard]:
    generator = np.random.default_rng(seed)
    frames = videos.frames * np.exp(videos.frames_spread * generator.standard_normal(videos.count))
    work = frames + videos.views * videos.sampled_frames
    max_rows = max(int(videos.shard_bytes // (videos.views * videos.view_bytes)), 1)
    for rows in cut(work, max_rows=max_rows):
        yield _Shard(rows.stop - rows.start, float(work[rows].sum()))


def decode_tasks(videos: VideoCosts, shards: list[_Shard]) -> Iterator[Task]:
    """Yield one task per shard, the longest first."""
    for shard in sorted(shards, key=lambda shard: -shard.work):
        written = shard.videos * videos.views * videos.view_bytes
        yield Task(shard.videos * videos.bytes, shard.work * videos.decode_seconds, written)


def feature_tasks(videos: VideoCosts, shards: list[_Shard]) -> Iterator[Task]:
    """Yield one task per shard and view. Each task reads the whole shard."""
    for shard in shards:
        read = shard.videos * videos.views * videos.view_bytes
        seconds = shard.videos * videos.feature_seconds
        for _ in range(videos.views):
            yield Task(read, seconds, shard.videos * videos.feature_bytes)


def _decode(site: Site, tasks: deque[Task]) -> ProcessGenerator:
    while tasks:
        task = tasks.popleft()
        yield site.storage.transfer(task.read)
        yield site.env.timeout(task.seconds)
        yield site.storage.transfer(task.written)


def _encode(site: Site, gpu: int, tasks: deque[Task]) -> ProcessGenerator:
    enter = site.timesheet.enter
    enter(gpu, Doing.START)
    yield site.env.timeout(site.plan.videos.network_seconds)
    while tasks:
        task = tasks.popleft()
        enter(gpu, Doing.FETCHING)
        yield site.storage.transfer(task.read)
        enter(gpu, Doing.FEATURES)
        yield site.env.timeout(task.seconds)
        enter(gpu, Doing.WRITING)
        yield site.storage.transfer(task.written)
    enter(gpu, Doing.OTHERS_FEATURES)
