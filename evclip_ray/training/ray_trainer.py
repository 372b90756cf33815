"""Ray Train around the training loop: one run on several workers, resumed after a worker is lost."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from evclip_ray.artifacts import write_text
from evclip_ray.objective import BEST
from evclip_ray.ray_internals import cancel_reservation, propagate_to_workers
from evclip_ray.records import EpochMetrics, objective_of
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.resources import ResourceRequest
from evclip_ray.training.run_registry import register_run

_RECORDS, _RESERVATION = ".ray", "reservation"
_ADDRESS = "RAY_ADDRESS"
_SETTINGS = {
    # The controller accepts one report per poll. Its default of 2 s would slow down short epochs.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # After a node is lost, a placement that was decided before the loss cannot be met and blocks the group
    # for this time. Ray refreshes its list of machines every 20 s, so that a shorter time gains nothing.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
}
"""Ray Train settings, set in the process that starts the group. A user's own values take precedence."""
_RESIZE_SECONDS = 60.0
"""Interval at which an elastic group checks for new machines."""
_PLACEMENTS = 20
"""Failed placements of a group, 30 s each: a replacement machine has ten minutes to join. Ray's default is
to retry without a limit."""


def train_distributed(
    experiment: ExperimentConfig,
    videos_file: Path,
    *,
    folder: Path,
    zero_shot: Path,
    request: ResourceRequest,
    hparams: Mapping[str, Any],
    max_failures: int,
    objective: str | None = None,
) -> None:
    """Train one run on a group of processes. History and checkpoints are written to `folder`.

    A lost worker restarts the group from the checkpoint of the last epoch. An elastic group (`min_workers`
    below `workers`) continues with the workers that can be placed and grows again when machines join; each
    change of size costs the epoch in progress. The numbers do not depend on the number of workers, up to
    rounding. Exceptions are dropout and mixup, which draw other random numbers.

    Args:
        experiment: Settings of the run.
        videos_file: File written by `Videos.save`.
        folder: Folder of the run.
        zero_shot: File of the zero-shot numbers.
        request: Workers of the run and the resources of each.
        hparams: Values for TensorBoard's HParams tab, by setting.
        max_failures: Restarts of the group after lost workers.
        objective: Objective of the Tune trial that calls this function. Every epoch is reported to it. None
            outside of a trial.

    Raises:
        ray.train.TrainingFailedError: The group failed more than `max_failures` times, or could not be
            placed within ten minutes.
    """
    callbacks: list[Any] = []
    if objective is not None:
        from ray.tune.integration.ray_train import TuneReportCallback

        # It raises an error outside of a trial. Tune receives the metrics of rank 0 alone.
        callbacks.append(TuneReportCallback())
    # Plain JSON values: Ray pickles them for the workers, which may run on other machines.
    config = {
        "experiment": experiment.model_dump(mode="json"),
        "videos": str(videos_file),
        "folder": str(folder),
        "zero_shot": str(zero_shot),
        "hparams": dict(hparams),
        "threads": max(1, int(request.cpus)),
        "objective": objective or BEST,
    }
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # The process that releases the reservation of a stopped group connects to Ray by address. Without
    # this variable it could reach another Ray on the same machine.
    propagate_to_workers(_ADDRESS)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config=config,
        # NCCL needs one GPU per process. Gloo works on CPUs.
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
    # A group of an earlier process that was killed here may still hold the resources that this one needs.
    release_places(folder)
    # Written before the group starts, so that it can be released after a kill at any later moment.
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
        # Ray Train's own records. The loop writes the records of the run into `folder` itself.
        shutil.rmtree(folder / _RECORDS, ignore_errors=True)


def release_places(folder: Path) -> None:
    """Release the resources that a killed group has reserved, if there was one.

    Ray would hold the resources for three minutes, during which no other group could be placed on them.
    """
    reservation = folder / _RECORDS / _RESERVATION
    if reservation.is_file():
        cancel_reservation(reservation.read_text(encoding="utf-8"))
        shutil.rmtree(folder / _RECORDS, ignore_errors=True)


def _train_worker(config: dict[str, Any]) -> dict[str, Any]:
    from evclip_ray.training.cross_validation import start_run
    from evclip_ray.training.datamodule import Videos

    torch.set_num_threads(config["threads"])
    # Each worker is an actor of its own; `cluster status` shows the run for all of them.
    register_run(Path(config["folder"]))
    experiment = ExperimentConfig.load(config["experiment"])
    videos = Videos.load(Path(config["videos"]))
    run = start_run(
        experiment,
        videos,
        device=get_device(),
        folder=Path(config["folder"]),
        zero_shot=Path(config["zero_shot"]),
        hparams=config["hparams"],
        objective=config["objective"],
    )

    def report(metrics: EpochMetrics) -> None:
        value = objective_of(run.history, config["objective"])
        ray.train.report({**metrics.to_record(), "objective": value})

    return run.fit(report).to_record()
