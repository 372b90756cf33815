"""`train`: one experiment from its videos to its checkpoints, in this process or over a Ray Train group."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from evclip_ray.training.baseline import videos_key
from evclip_ray.training.cached import prepare_cached
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Metrics, Report, Run
from evclip_ray.training.placement import GIB, Need, concurrent_trials
from evclip_ray.training.trainer import train_distributed
from evclip_ray.training.videos import Progress, plan_videos, prepare


def train_experiment(
    experiment: ExperimentConfig,
    *,
    folder: Path,
    cache: Path,
    machines: Sequence[Mapping[str, float]],
    workers: int,
    cpus: float,
    gpus: float | None,
    decoding: Progress | None,
    say: Report,
) -> Metrics:
    """Train into `folder`, resuming what it holds; returns the last epoch's metrics.

    Raises:
        ValueError: workers that can never be placed, or a folder of another experiment.
    """
    if not experiment.method.trains:
        raise ValueError(
            f"method {experiment.method.name!r} has nothing to train; evaluate shows its numbers"
        )
    folder = folder.expanduser().resolve()
    has_gpus = any(node.get("GPU", 0) > 0 for node in machines)
    need = Need(cpus, float(has_gpus) if gpus is None else gpus, 1.5 * GIB, workers)
    concurrent_trials(need, machines)
    videos = prepare(plan_videos(experiment, cache=cache), cache=cache, progress=decoding)
    prepare_cached([(experiment, videos)], gpus=need.gpus, progress=decoding)
    if workers == 1:
        torch.set_num_threads(max(1, int(machines[0].get("CPU", 1))))
        return Run.start(experiment, videos, folder=folder).fit(say)
    videos_file = folder / f"videos-{videos_key(experiment)}.json"
    videos.save(videos_file)
    zero_shot = folder / "zero_shot.json"
    train_distributed(experiment, videos_file, folder=folder, zero_shot=zero_shot, need=need, hparams={})
    history = [
        json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for metrics in history:
        say(metrics)
    return dict(history[-1])
