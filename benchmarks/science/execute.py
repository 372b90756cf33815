"""One experiment, from its videos to a record, through the package's own training and evaluation.

The package decodes videos and computes cached features on Ray. The same functions are called here without it,
because many experiments run at once and share the cores as they are. The files are the same bytes.
"""

import csv
import dataclasses
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evclip_ray.artifacts import provenance
from evclip_ray.data.shards.prepare import _SHARD_BYTES, Writing, _plan, _videos
from evclip_ray.evaluation.evaluate import evaluate_checkpoint
from evclip_ray.evaluation.plan import plan_evaluation
from evclip_ray.features.encode import run_job
from evclip_ray.locking import building
from evclip_ray.records import EpochMetrics
from evclip_ray.training.build import pick_device
from evclip_ray.training.checkpoint import ROWS
from evclip_ray.training.datamodule import Videos, VideoSet, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import _jobs
from evclip_ray.training.loop import Run
from evclip_ray.training.video_plan import VideoPlan, plan_videos, record_rows
from evclip_ray.training.zero_shot import score_zero_shot

from .experiments import Experiment
from .settings import WorldSet

Record = dict[str, Any]


class OutOfTime(Exception):
    """The deadline has passed; the run continues from its checkpoint the next time."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Folders and deadline of the experiments.

    Attributes:
        out: Folder of the results; unfinished runs are in `out / "runs"`.
        cache: Folder of videos and features.
        deadline: Time in seconds since the epoch, at which a training stops after its epoch.
    """

    out: Path
    cache: Path
    deadline: float = float("inf")

    def check_time(self, _: EpochMetrics | None = None) -> None:
        """Raise `OutOfTime` once the deadline has passed."""
        if time.time() > self.deadline:
            raise OutOfTime


def execute(experiment: Experiment, place: Place) -> Record:
    """Run an experiment and return its record.

    Raises:
        OutOfTime: The deadline passed before its end.
    """
    started = time.perf_counter()
    place.check_time()
    record = EXECUTORS[experiment.kind](experiment, place)
    return {
        "key": experiment.key,
        "kind": experiment.kind,
        "name": experiment.name,
        "settings": experiment.overrides,
        "seconds": round(time.perf_counter() - started, 1),
        **record,
        "provenance": provenance(),
    }


def prepare_world(world: WorldSet, place: Place) -> None:
    """Draw the videos of a data set and decode its test split."""
    experiment = Experiment("zero_shot", world)
    decoded(experiment, ("test",), place)


def decoded(experiment: Experiment, splits: tuple[str, ...], place: Place) -> Videos:
    """Return the decoded videos of some splits of an experiment."""
    plan = plan_videos(config_of(experiment), cache=place.cache, splits=splits)
    return decode(plan, place.cache)


def config_of(experiment: Experiment) -> ExperimentConfig:
    """Return the validated settings of an experiment."""
    return ExperimentConfig.load({}, experiment.overrides)


def decode(plan: VideoPlan, cache: Path) -> Videos:
    """Decode the missing videos of a plan in this process and open its shards."""
    for split, rows in plan.rows.items():
        folder, views = plan.folder(split, cache), plan.num_views[split]
        folder.mkdir(parents=True, exist_ok=True)
        per_shard = max(_SHARD_BYTES // (views * plan.view.num_bytes), 1)
        seed = None if plan.spread else 0
        writing = Writing(None, plan.manifest.root, folder, plan.seconds_per_video, uuid.uuid4().hex)
        for job in _plan(_videos(plan.manifest, rows), plan.view, views, seed, per_shard):
            writing.write(job)
    # All shards exist, so that this needs no Ray; it writes their index and ledger.
    return prepare(plan, cache=cache)


def cache_features(experiment: ExperimentConfig, videos: Videos, splits: tuple[str, ...]) -> None:
    """Compute the features that a run on cached views reads."""
    device = pick_device()
    jobs = _jobs(experiment, videos, splits, device)
    # Another process may compute the same features; the second one waits and then finds them.
    with building(sorted({job.store / job.spec.key for job in jobs})):
        for job in jobs:
            run_job(job, device)


def _train(experiment: Experiment, place: Place) -> Record:
    config, folder = config_of(experiment), place.out / "runs" / experiment.key
    plan = plan_videos(config, cache=place.cache, splits=("train",))
    rows = record_rows(plan)
    videos = decode(plan, place.cache)
    rows.write(folder / ROWS)
    videos = dataclasses.replace(videos, rows=folder / ROWS, row_keys=rows.keys())
    cache_features(config, videos, ("train",))
    last = Run.start(config, videos, folder=folder).fit(place.check_time)
    record = _evaluated(folder, place)
    # The record has all that the claims read.
    shutil.rmtree(folder)
    return {
        "train_loss": last.values.get("train_loss"),
        "epoch_seconds": last.values.get("seconds"),
        **record,
    }


def _evaluated(folder: Path, place: Place) -> Record:
    """Score the checkpoint of a run and zero-shot CLIP on the test split, as `evclip-ray evaluate` does."""
    from .measures import mask_measures

    checkpoint = folder / "best"
    plan = plan_evaluation(checkpoint, {}, split="test", cache=place.cache)
    videos = {name: decode(chosen, place.cache) for name, chosen in plan.plans.items()}
    result = evaluate_checkpoint(plan, videos, out=folder / "test")["test"]
    with (folder / "test" / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        predictions = list(csv.DictReader(stream))
    right = {
        kind: np.array([row[kind] == row["label"] for row in predictions])
        for kind in ("zero_shot", "adapted")
    }
    return {
        "test": answers(videos["test"].sets["test"], **right),
        "conditions": result.conditions,
        "weights": result.weights,
        **mask_measures(plan, videos["test"]),
    }


def answers(videos: VideoSet, **right: np.ndarray) -> Record:
    """Return the digest and groups of test videos, and whether each predictor has them right, as bits."""
    groups = np.arange(len(videos)) if videos.groups is None else videos.groups
    bits = {name: np.packbits(flags).tobytes().hex() for name, flags in right.items()}
    return {"videos": videos.key, "count": len(videos), "groups": groups.tolist(), "right": bits}


def _zero_shot(experiment: Experiment, place: Place) -> Record:
    videos = decoded(experiment, ("test",), place)
    scores, weights = score_zero_shot(config_of(experiment), videos, split="test", device=pick_device())
    return {"test": answers(videos.sets["test"], zero_shot=scores.right), "weights": weights}


def _measure(name: str) -> Callable[[Experiment, Place], Record]:
    def run(experiment: Experiment, place: Place) -> Record:
        from . import measures

        record: Record = getattr(measures, name)(experiment, place)
        return record

    return run


def _search(experiment: Experiment, place: Place) -> Record:
    from .search import search

    return search(experiment, place)


EXECUTORS: dict[str, Callable[[Experiment, Place], Record]] = {
    "train": _train,
    "zero_shot": _zero_shot,
    "true_mask": _measure("true_mask"),
    "untrained": _measure("untrained"),
    "factors": _measure("factors"),
    "search": _search,
}


def start_worker(device: str) -> None:
    """Set up a worker process: one thread, and the CPU or the shared GPU."""
    import logging
    import os

    import cv2

    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logging.getLogger("evclip_ray").setLevel(logging.ERROR)
