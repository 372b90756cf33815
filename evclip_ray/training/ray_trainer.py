"""Ray Train around the loop: N workers of one run, DDP over the adapter, resumed after a lost worker."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE
from ray.train.v2._internal.execution.scaling_policy.autoscaling_coordinator_client import (
    TrainAutoscalingCoordinatorClient,
)

from evclip_ray.artifacts import write_text
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.resources import ResourceRequest
from evclip_ray.training.run_registry import tell_run

_RECORDS, _RESERVATION = ".ray", "reservation"
_ADDRESS = "RAY_ADDRESS"
_SETTINGS = {
    # The controller takes one report a poll; its own 2 s would pace fast epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # What was decided by the machines of before a loss finds no place, and holds a group up for so long.
    # Ray looks at the machines every 20 s: decided anew any sooner it would be the same.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
}
"""Read by Ray where the group is started from, which may be a node of a cluster; a user's own stand."""
_RESIZE_SECONDS = 60.0
"""How often a group looks whether machines have joined."""
_PLACEMENTS = 20
"""Times that a group may find no place, of 30 s each: ten minutes for a machine to come in a lost one's
place. Without a limit it would be tried for ever."""


def train_distributed(
    experiment: ExperimentConfig,
    videos_file: Path,
    *,
    folder: Path,
    zero_shot: Path,
    request: ResourceRequest,
    hparams: Mapping[str, Any],
    max_failures: int,
    in_tune: bool = False,
) -> None:
    """Train over a group of processes; history and checkpoints are written to `folder`.

    A lost worker restarts the group from the last epoch's checkpoint, `max_failures` times. With fewer
    workers at least than at most, it goes on with those that have a place, and grows again where
    machines join: looked at every minute, at the cost of the epoch that it is in. The numbers are the
    same whatever their count, to rounding; only dropout and mixup draw otherwise. `in_tune` passes every
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
        "threads": max(1, int(request.cpus)),
    }
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # Whoever frees the places of a stopped group asks Ray by address, which it must be told where other
    # Rays run in the same machine.
    ENV_VARS_TO_PROPAGATE.add(_ADDRESS)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if request.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=request.workers
            if request.fewest == request.workers
            else (request.fewest, request.workers),
            use_gpu=request.gpus > 0,
            resources_per_worker=dict(request.resources),
            elastic_resize_monitor_interval_s=_RESIZE_SECONDS,
        ),
        run_config=ray.train.RunConfig(
            name=_RECORDS,
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(
                max_failures=max_failures, controller_failure_limit=_PLACEMENTS
            ),
            callbacks=callbacks,
        ),
    )
    release_places(folder)
    write_text(folder / _RECORDS / _RESERVATION, f"train-{trainer.train_run_context.run_id}")
    before = os.environ.get(_ADDRESS)
    os.environ[_ADDRESS] = ray.get_runtime_context().gcs_address
    try:
        trainer.fit()
    finally:
        if before is None:
            del os.environ[_ADDRESS]
        else:
            os.environ[_ADDRESS] = before
        # Ray Train's own records; the run's are written by the loop, beside it.
        shutil.rmtree(folder / _RECORDS, ignore_errors=True)


def release_places(folder: Path) -> None:
    """Give back what a group that was killed has reserved, if one was.

    Ray would keep the places for it, and from elastic groups, for three minutes.
    """
    reservation = folder / _RECORDS / _RESERVATION
    if reservation.is_file():
        TrainAutoscalingCoordinatorClient(reservation.read_text(encoding="utf-8")).cancel_resource_request()
        shutil.rmtree(folder / _RECORDS, ignore_errors=True)


def _train_worker(config: dict[str, Any]) -> dict[str, Any]:
    from evclip_ray.training.datamodule import Videos
    from evclip_ray.training.loop import Run

    torch.set_num_threads(config["threads"])
    tell_run(Path(config["folder"]))
    experiment = ExperimentConfig.load(config["experiment"])
    videos = Videos.load(Path(config["videos"]))
    run = Run.start(
        experiment, videos, device=get_device(), folder=Path(config["folder"]),
        zero_shot=Path(config["zero_shot"]), hparams=config["hparams"],
    )  # fmt: skip
    return run.fit(_report)


def _report(metrics: dict[str, Any]) -> None:
    ray.train.report({**metrics, "objective": metrics["best_val_top1"]})
