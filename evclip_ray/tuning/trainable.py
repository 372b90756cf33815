"""Tune's trainable: one trial in a reused process, or on a Ray Train group of workers."""

import ctypes
import dataclasses
import json
import math
import traceback
from pathlib import Path
from typing import Any

import torch
from ray import tune

from evclip_ray.artifacts import read_json, write_text
from evclip_ray.machine_faults import find_fault, gpu_fault, has_broken_gpu
from evclip_ray.objective import OBJECTIVE
from evclip_ray.ray_internals import wait_for_ended_trials
from evclip_ray.records import objective_of
from evclip_ray.training.cross_validation import start_run
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.ray_trainer import train_distributed
from evclip_ray.training.resources import ResourceRequest
from evclip_ray.training.run_registry import register_run, registered_stages
from evclip_ray.training.zero_shot import videos_key, zero_shot_key
from evclip_ray.tuning.broken_gpu import error_for_tune
from evclip_ray.tuning.gpu_turns import release_gpu_memory, train_in_turns
from evclip_ray.tuning.stopper import FAULT, WAITING
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.study_view import trial_experiment

_LONGEST_END_SECONDS = 600
_ERROR = "error.txt"
_NO_RESULT: dict[str, Any] = {"epoch": 0, OBJECTIVE: math.nan}
"""Tune needs the metric in every result. The searcher records a trial without a finite value as failed."""


def run_trial(config: dict[str, Any]) -> None:
    """Train the point in `config` in its folder, and report every epoch.

    The videos are memory-mapped, and the frozen networks stay loaded in this process between trials. A trial
    that raises an error is reported as failed, with its traceback in `error.txt`, because the same error
    would occur again. After a fault of the machine it is paused. Tune restarts a process that dies or that
    cannot use its GPU any more; the trial then continues after its last epoch.

    Args:
        config: Paths and numbers of the trial, see `fit` in fit.py.
    """
    wait_for_ended_trials(_LONGEST_END_SECONDS)
    # The process serves many trials, so the record is replaced at each start and removed at the end.
    register_run(_folder(config))
    is_usable = True
    try:
        # Left by an earlier attempt, before --retry-failed.
        (_folder(config) / _ERROR).unlink(missing_ok=True)
        with registered_stages(_folder(config)):
            _train(config)
    except Exception as error:
        is_usable = not has_broken_gpu(error)
        if not is_usable:
            _leave_gpu(config, error)
        else:
            # Reported instead of raised: Tune would restart the trial and end the reused process.
            tune.report(_failure(config, error))
    finally:
        register_run(None)
        if is_usable:
            _release_memory()


def _report_waiting() -> None:
    tune.report({**_NO_RESULT, WAITING: True})


def _leave_gpu(config: dict[str, Any], error: Exception) -> None:
    """Report a lost GPU if the cluster has no other one for the trial.

    Raises:
        RuntimeError: Another process continues the trial. Tune ends the process of a trial that raises.
    """
    gpus = ResourceRequest(**config["request"]).gpus
    idle_seconds = StudyFolder(Path(config["study"])).idle_seconds
    raised, may_restart = error_for_tune(error, gpus=gpus, on_wait=_report_waiting, idle_seconds=idle_seconds)
    raised.__cause__ = error
    result = _failure(config, raised)
    if may_restart:
        raise raised
    tune.report(result)


def _failure(config: dict[str, Any], error: Exception) -> dict[str, Any]:
    """Write the traceback of a failed trial to its folder and return the metrics to report."""
    fault = find_fault(error)
    if fault is None:
        try:
            write_text(_folder(config) / _ERROR, "".join(traceback.format_exception(error)))
        except OSError as problem:
            fault = find_fault(problem)
            if fault is None:
                raise
    if fault is not None:
        return {**_NO_RESULT, FAULT: json.dumps(dataclasses.asdict(fault))}
    text = gpu_fault(error) or f"{type(error).__name__}: {error}"
    return {**_NO_RESULT, "error": " ".join(text.split())}


def _folder(config: dict[str, Any]) -> Path:
    return StudyFolder(Path(config["study"])).trial(config["folder"])


def _release_memory() -> None:
    """Return freed memory to the system. glibc keeps it, and the process would grow by 50 MB per trial."""
    release_gpu_memory()
    # Only glibc has malloc_trim.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _train(config: dict[str, Any]) -> None:
    request = ResourceRequest(**config["request"])
    experiment, videos_file, places = _task(config)
    if request.workers > 1:
        train_distributed(
            experiment,
            videos_file,
            request=request,
            max_failures=config["max_failures"],
            objective=config["objective"],
            **places,
        )
        return
    # Trials share the machine: more threads than reserved CPUs would slow down all of them.
    torch.set_num_threads(max(1, int(request.cpus)))
    objective = config["objective"]

    def train() -> None:
        run = start_run(experiment, Videos.load(videos_file), objective=objective, **places)
        run.fit(
            lambda metrics: tune.report(
                {**metrics.to_record(), OBJECTIVE: objective_of(run.history, objective)}
            )
        )

    train_in_turns(
        train,
        is_shared=0 < request.gpus < 1,
        on_wait=_report_waiting,
    )


def _task(config: dict[str, Any]) -> tuple[ExperimentConfig, Path, dict[str, Any]]:
    """Return the experiment of a trial, the record of its videos, and the paths that it writes to."""
    study, overrides = StudyFolder(Path(config["study"])), config["overrides"]
    experiment = trial_experiment(read_json(study.fixed), overrides)
    zero_shot = study.zero_shot(zero_shot_key(experiment))
    hparams = {**_compared(experiment), **overrides}
    places = {"folder": _folder(config), "zero_shot": zero_shot, "hparams": hparams}
    return experiment, study.videos(videos_key(experiment)), places


def _compared(experiment: ExperimentConfig) -> dict[str, Any]:
    """Return settings in which studies often differ, so that one TensorBoard can compare them."""
    return {
        "backbone.name": experiment.backbone.name,
        "method.name": experiment.method.name,
        "view.num_frames": experiment.view.num_frames,
        "data.shots": experiment.data.shots or "all",
    }
