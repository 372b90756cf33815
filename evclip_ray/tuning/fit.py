"""One call of Ray Tune for the missing trials of a study."""

import dataclasses
import math
import shutil
from typing import Any

import optuna
import ray
from ray import tune

from evclip_ray.progress import Progress
from evclip_ray.ray_internals import HEAD_RESOURCE
from evclip_ray.training.resources import ResourceRequest, trial_slots
from evclip_ray.tuning.callbacks import OnEvent, Recorder, TrialStages
from evclip_ray.tuning.plan import StudyPlan
from evclip_ray.tuning.preparation import Preparation
from evclip_ray.tuning.scheduler import make_scheduler
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.searcher import StudySearch
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trainable import run_trial

_TUNE = ".ray"


def fit(
    space: SearchSpace,
    folder: StudyFolder,
    study: optuna.Study,
    *,
    plan: StudyPlan,
    trials: float,
    missing: float,
    stops: Stops,
    preparation: Preparation,
    on_event: OnEvent,
    progress: Progress | None,
) -> None:
    """Run trials until none is missing, all are paused, or Tune has lost some.

    Args:
        space: Search space.
        folder: Folder of the study.
        study: Optuna study, which the searcher reads and writes.
        plan: Epochs, resources and number of trials that run at the same time.
        trials: Number of trials in total; infinite if only the time limits them.
        missing: Number of trials that are not finished.
        stops: Reasons to stop or pause trials.
        preparation: Preparation of the videos that runs in parallel with the trials.
        on_event: Called with every epoch and end of a trial.
        progress: Progress of the stages of trials that have not trained an epoch yet.
    """
    epochs, request = plan.epochs, plan.request
    search = StudySearch(
        space,
        study,
        folder,
        max_epochs=epochs,
        stops=stops,
        trials=trials,
        missing=missing,
        is_ready=preparation.is_ready,
        # A callable: nodes may join or leave while the study runs.
        num_slots=lambda: _slots_now(request),
    )
    tuner = tune.Tuner(
        tune.with_resources(run_trial, _bundle(request)),
        param_space={
            # Constants of all trials. Tune merges them with the point that the searcher suggests.
            "study": str(folder.root.resolve()),
            "request": dataclasses.asdict(request),
            "max_failures": space.study.max_failures,
            "objective": space.study.objective,
        },
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=make_scheduler(space, folder, max_epochs=epochs, stops=stops),
            # -1 lets Tune request points until the searcher returns FINISHED.
            num_samples=-1 if math.isinf(missing) else int(missing),
            max_concurrent_trials=plan.concurrent,
            # A stopped driver of a Train group is still taking it down, and cannot be reused.
            reuse_actors=request.workers == 1,
            # Tune's default is a long name that lists all parameters.
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=_TUNE,
            storage_path=str(folder.root.resolve()),
            # The progress view of this package replaces Tune's tables.
            verbose=0,
            stop=stops,
            # Counts processes that died. An exception inside a trial is reported as a result and never
            # retried.
            failure_config=tune.FailureConfig(max_failures=space.study.max_failures),
            callbacks=[
                Recorder(folder, epochs, stops, on_event),
                preparation,
                TrialStages(folder, progress),
            ],
        ),
    )
    try:
        with stops.on_interrupt(), stops.pausing():
            tuner.fit()
    finally:
        # Tune's own state, which serves its own restore only.
        shutil.rmtree(folder.root / _TUNE, ignore_errors=True)


def _slots_now(request: ResourceRequest) -> int:
    """Return the number of trials that fit on the machines that are up now."""
    return trial_slots(request, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def _bundle(request: ResourceRequest) -> Any:
    if request.workers == 1:
        return request.resources
    # The driver of a group of workers takes no CPU, or drivers would starve their own workers.
    return {"CPU": 0, HEAD_RESOURCE: 0.001}
