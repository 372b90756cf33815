"""Ray Train around the loop: N workers of one run, DDP over the adapter, resumed after a lost worker."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from evclip_ray.training.at_work import tell_runs
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.placement import Need

_RECORDS = ".ray"


def train_distributed(
    experiment: ExperimentConfig,
    videos_file: Path,
    *,
    folder: Path,
    zero_shot: Path,
    need: Need,
    hparams: Mapping[str, Any],
    in_tune: bool = False,
) -> None:
    """Train over `need.workers` processes; history and checkpoints are written to `folder`.

    A lost worker restarts the group from the last epoch's checkpoint. `in_tune` passes every
    epoch's metrics on to the Tune trial that this is called from.

    Raises:
        ray.train.TrainingFailedError: the group failed more often than it may, or found no place.
    """
    callbacks: list[Any] = []
    if in_tune:
        from ray.tune.integration.ray_train import TuneReportCallback

        callbacks.append(TuneReportCallback())
    config = {
        "experiment": experiment.model_dump(mode="json"),
        "videos": str(videos_file),
        "folder": str(folder),
        "zero_shot": str(zero_shot),
        "hparams": dict(hparams),
        "threads": max(1, int(need.cpus)),
    }
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if need.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=need.workers, use_gpu=need.gpus > 0, resources_per_worker=dict(need.resources)
        ),
        run_config=ray.train.RunConfig(
            name=_RECORDS,
            storage_path=str(folder),
            # Without a limit, a group that finds no place would be tried again for ever.
            failure_config=ray.train.FailureConfig(max_failures=2, controller_failure_limit=3),
            callbacks=callbacks,
        ),
    )
    try:
        trainer.fit()
    finally:
        # Ray Train's own records; the run's are written by the loop, beside it.
        shutil.rmtree(folder / _RECORDS, ignore_errors=True)


def _train_worker(config: dict[str, Any]) -> dict[str, Any]:
    from evclip_ray.training.loop import Run
    from evclip_ray.training.videos import Videos

    torch.set_num_threads(config["threads"])
    tell_runs([Path(config["folder"])])
    experiment = ExperimentConfig.load(config["experiment"])
    videos = Videos.load(Path(config["videos"]))
    run = Run.start(
        experiment, videos, device=get_device(), folder=Path(config["folder"]),
        zero_shot=Path(config["zero_shot"]), hparams=config["hparams"],
    )  # fmt: skip
    return run.fit(_report)


def _report(metrics: dict[str, Any]) -> None:
    ray.train.report({**metrics, "objective": metrics["best_val_top1"]})
