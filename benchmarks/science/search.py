"""One small search with the choice of its best trial and epoch, and the test accuracy of that choice.

Each study has its own videos, draws its validation videos (whole groups) from the training split, and draws
its own points. Trials read cached features, so a study costs seconds. The score of the best trial and its
corrected score are those that a leaderboard prints.
"""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.choice import Candidate, corrected_for_choice, objective_in_bag, resampling
from evclip_ray.metrics.intervals import accuracy_interval
from evclip_ray.metrics.scoring import score
from evclip_ray.models.methods.base import Method
from evclip_ray.objective import BEST, objective_weights
from evclip_ray.training.build import autocast_dtype, build_method, pick_device
from evclip_ray.training.checkpoint import load_adapter
from evclip_ray.training.datamodule import Videos, VideoSet
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import open_cached
from evclip_ray.training.loader import Batches
from evclip_ray.training.loop import Run

from .execute import Place, Record, answers, cache_features, decoded
from .experiments import Experiment

TRIALS, EPOCHS = 8, 10
_VAL_SHARE = 1 / 3


def search(experiment: Experiment, place: Place) -> Record:
    """Return scores, intervals and test results of one study."""
    pool = _pool(experiment, place)
    random = np.random.default_rng([7, experiment.seed])
    sets = dict(zip(("train", "val"), _halves(pool.sets["train"], random), strict=True))
    videos = dataclasses.replace(pool, sets=sets, selection="validation")
    points = [_point(random) for _ in range(TRIALS)]
    folder = place.out / "runs" / experiment.key
    runs = []
    for number, point in enumerate(points):
        runs.append(_trial(experiment, point, videos, folder / str(number), place))
    tops = [run.progress.best_top1 for run in runs]
    best = int(np.argmax(tops))
    # Read before the folder goes: the best checkpoint of the chosen trial.
    chosen = _test(runs[best], pool, folder / str(best) / "best")
    val = sets["val"]
    right = [_answers_of(run) for run in runs]
    epoch = int(right[best].mean(1).argmax())
    samples = resampling(len(val), val.groups)
    rule = functools.partial(objective_weights, objective=BEST)
    candidates = [
        Candidate(number, functools.partial(np.asarray, each), objective_in_bag(each, rule, samples))
        for number, each in enumerate(right)
    ]
    corrected = corrected_for_choice(candidates, rule=rule, best=best, groups=val.groups)
    shutil.rmtree(folder)
    return {
        "val_videos": len(val),
        "trials": TRIALS,
        "epochs": EPOCHS,
        "best": tops[best],
        "best_interval": accuracy_interval(right[best][epoch], val.groups),
        "corrected": None if corrected is None else corrected.top1,
        "corrected_interval": None if corrected is None else corrected.interval,
        "test": answers(pool.sets["test"], adapted=chosen),
    }


def _pool(experiment: Experiment, place: Place) -> Videos:
    """Return all training videos and the test videos, with their cached features."""
    whole = dataclasses.replace(experiment, settings={**experiment.settings, "data.shots": None})
    videos = decoded(whole, ("train", "test"), place)
    config = _config(whole, {})
    # The validation videos of a study are training videos in their fixed view.
    with_val = dataclasses.replace(videos, sets={**videos.sets, "val": videos.sets["train"]})
    cache_features(config, with_val, ("train", "val", "test"))
    return videos


def _halves(pool: VideoSet, random: np.random.Generator) -> tuple[VideoSet, VideoSet]:
    """Split a set into training and validation videos, whole groups each."""
    groups = np.arange(len(pool)) if pool.groups is None else pool.groups
    names = random.permutation(np.unique(groups))
    is_val = np.isin(groups, names[: round(_VAL_SHARE * len(names))])
    return _subset(pool, np.flatnonzero(~is_val)), _subset(pool, np.flatnonzero(is_val))


def _subset(videos: VideoSet, positions: NDArray[np.int64]) -> VideoSet:
    return VideoSet(videos.shards.subset(positions), videos.labels[positions])


def _point(random: np.random.Generator) -> dict[str, Any]:
    return {
        "optim.lr": float(10 ** random.uniform(-3.5, -1.5)),
        "method.context.scale_init": float(10 ** random.uniform(-2, 0.3)),
        "seed": int(random.integers(2**31)),
    }


def _config(experiment: Experiment, point: dict[str, Any]) -> ExperimentConfig:
    settings = {**experiment.overrides, "data.shots": None, "data.selection": "validation", **point}
    return ExperimentConfig.load({}, {**settings, "optim.epochs": EPOCHS})


def _trial(experiment: Experiment, point: dict[str, Any], videos: Videos, folder: Path, place: Place) -> Run:
    config = _config(experiment, point)
    run = Run.start(config, videos, folder=folder, zero_shot=folder.parent / "zero_shot.json")
    run.fit(place.check_time)
    return run


def _answers_of(run: Run) -> NDArray[np.bool_]:
    assert run.answers is not None
    return run.answers.right


def _test(run: Run, videos: Videos, checkpoint: Path) -> NDArray[np.bool_]:
    """Return whether a checkpoint has each test video right, from cached features."""
    device, config = pick_device(), run.experiment
    cached = open_cached(config, videos, device=device, splits=("test",))
    method: Method = build_method(config, videos.classes, device=device, frozen=cached.networks)
    load_adapter(checkpoint, method)
    tests = videos.sets["test"]
    batches = Batches(
        tests,
        size=method.frozen.clip.image_size,
        device=device,
        features=cached.sets.get("test"),
        pixels=cached.needs_pixels,
    )
    scores = score(
        method,
        tests.shards,
        tests.labels,
        device=device,
        batches=batches,
        batch_size=config.optim.eval_batch_size,
        dtype=autocast_dtype(config, device),
    )
    return scores.right
