"""A study: Ray Tune over a search space, with everything that matters kept in the study's folder.

Resuming does not go through Tune's own state. A finished trial is a folder with a `result.json`
and an entry in the Optuna journal; a trial that a kill interrupted is asked again, with the same
point and in the same folder, where its run goes on after its last epoch. A study can therefore be
resumed after any kill, as often as one likes, and with more trials than it began with.
"""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from evclip_ray.artifacts import write_json
from evclip_ray.training.baseline import videos_key
from evclip_ray.training.cached import prepare_cached
from evclip_ray.training.placement import GIB, Need
from evclip_ray.training.videos import Progress, Videos, plan_videos, prepare
from evclip_ray.tuning.plan import StudyPlan, frozen_variants, plan_study
from evclip_ray.tuning.search import OBJECTIVE, StudySearch, make_sampler
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study import StudyFolder
from evclip_ray.tuning.trial import run_trial

log = logging.getLogger(__name__)
STUDY_NAME = "evclip-ray"
_TUNE = ".ray"
OnEvent = Callable[[str, str, dict[str, Any]], None]
"""Called with what happened ("epoch" or "ended"), the trial's folder name and its metrics."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a study call ended. `rows`: the leaderboard; `missing`: trials still to be run."""

    rows: list[dict[str, Any]]
    missing: int


def identity(space: SearchSpace) -> dict[str, Any]:
    """What makes a study that study: a folder with another identity is refused."""
    described = space.describe()
    return {
        **described,
        "seed": space.study.seed,
        "scheduler": space.study.scheduler,
        "sampler": space.study.sampler,
    }


class StudyRun:
    """A study in its folder, step by step: plan, claim the folder, prepare the videos, run."""

    def __init__(self, space: SearchSpace, root: Path, *, cache: Path) -> None:
        self.space, self.folder, self.cache = space, StudyFolder(root.expanduser().resolve()), cache

    def missing(self) -> int:
        """Trials still to run.

        Raises:
            ValueError: the folder of another study, or one with other files.
        """
        self.folder.check(identity(self.space))
        if not self.folder.journal.is_file():
            return self.space.study.trials
        return count_missing(self._optuna(), self.space.study.trials)

    def plan(self, machines: Sequence[Mapping[str, float]], *, measure: bool = False) -> StudyPlan:
        """What is going to happen; nothing is written to the folder.

        Raises:
            ValueError: a trial that can never be placed; the folder of another study.
        """
        study = self.space.study
        has_gpus = any(node.get("GPU", 0) > 0 for node in machines)
        gpus = study.gpus if study.gpus is not None else float(has_gpus)
        need = Need(study.cpus, gpus, study.memory_gb * GIB, study.workers)
        return plan_study(
            self.space, need=need, machines=machines, cache=self.cache, missing=self.missing(),
            measure=measure,
        )  # fmt: skip

    def claim(self) -> None:
        """Make the folder this study's, or find that it is already."""
        self.folder.claim(identity(self.space))
        write_json(self.folder.fixed, dict(self.space.fixed))

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode, once, every variant of the videos that a trial may read; write down where they are.

        Then the features that the frozen networks give of them, where a trial may read those from disk.
        """
        decoded: dict[str, Videos] = {}
        wanted = []
        for variant in frozen_variants(self.space):
            experiment = self.space.experiment(variant)
            key = videos_key(experiment)
            if key not in decoded:
                plan = plan_videos(experiment, cache=self.cache)
                decoded[key] = prepare(plan, cache=self.cache, progress=progress)
                decoded[key].save(self.folder.videos(key))
            wanted.append((experiment, decoded[key]))
        prepare_cached(wanted, gpus=self._gpus(), progress=progress)

    def _gpus(self) -> float:
        if self.space.study.gpus is not None:
            return self.space.study.gpus
        return float(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) > 0)

    def run(self, plan: StudyPlan, on_event: OnEvent) -> Outcome:
        """Run the trials that are missing.

        Ctrl-C ends the call early, with everything finished so far on disk.
        """
        study = self._optuna()
        _recover(study, self.folder)
        missing = count_missing(study, self.space.study.trials)
        if missing:
            _fit(self.space, self.folder, study, plan=plan, missing=missing, on_event=on_event)
        return Outcome(self.folder.write_leaderboard(), count_missing(study, self.space.study.trials))

    def _optuna(self) -> optuna.Study:
        study = self.space.study
        return open_optuna(self.folder, seed=study.seed, sampler=study.sampler, trials=study.trials)


def open_optuna(folder: StudyFolder, *, seed: int, sampler: str, trials: int) -> optuna.Study:
    """The study's Optuna record, made if it is not there.

    The sampler's seed moves on with the trials on record: the same seed again would propose the
    same random points again.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    study = optuna.create_study(
        storage=storage, study_name=STUDY_NAME, direction="maximize", load_if_exists=True
    )
    study.sampler = make_sampler(sampler, seed=seed + len(study.trials), trials=trials)
    return study


def count_missing(study: optuna.Study, trials: int) -> int:
    """Trials still to run: those asked for, less those that ended (an interrupted one has not)."""
    ended = sum(
        trial.state.is_finished() and not trial.user_attrs.get("interrupted", False) for trial in study.trials
    )
    return max(0, trials - ended)


def _recover(study: optuna.Study, folder: StudyFolder) -> None:
    """Ask again the points that a kill interrupted; they go on in the folders that they began in."""
    waiting = {t.user_attrs.get("folder") for t in study.trials if t.state == TrialState.WAITING}
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, "interrupted", True)
        study.tell(trial.number, state=TrialState.FAIL)
        name = trial.user_attrs.get("folder")
        # A point that was asked but never drawn in full has no folder, and nothing to go on with.
        if name is not None and name not in waiting:
            study.enqueue_trial(trial.params, user_attrs={"folder": name})
            log.info("%s: interrupted before, goes on", folder.trial(name))


def _fit(
    space: SearchSpace,
    folder: StudyFolder,
    study: optuna.Study,
    *,
    plan: StudyPlan,
    missing: int,
    on_event: OnEvent,
) -> None:
    epochs, need = plan.epochs, plan.need
    search = StudySearch(space, study, max_epochs=epochs)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, _bundle(need)),
        param_space={"study": str(folder.root.resolve()), "need": dataclasses.asdict(need)},
        tune_config=tune.TuneConfig(
            search_alg=search, scheduler=_scheduler(space, epochs), num_samples=missing,
            max_concurrent_trials=plan.concurrent,
            # A stopped driver of a Train group is still taking it down, and cannot be reused.
            reuse_actors=need.workers == 1,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=_TUNE, storage_path=str(folder.root.resolve()), verbose=0,
            failure_config=tune.FailureConfig(max_failures=space.study.max_failures),
            callbacks=[_Recorder(folder, epochs, on_event)],
        ),
    )  # fmt: skip
    try:
        tuner.fit()
    finally:
        # Tune's own state, for a restore that is not used here.
        shutil.rmtree(folder.root / _TUNE, ignore_errors=True)


def _bundle(need: Need) -> Any:
    if need.workers == 1:
        return need.resources
    # The driver of a group of workers takes no CPU, or drivers would starve their own workers.
    return {"CPU": 0, "node:__internal_head__": 0.001}


def _scheduler(space: SearchSpace, epochs: int) -> TrialScheduler:
    if space.study.scheduler == "none" or epochs <= space.study.grace_epochs:
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="epoch", metric=OBJECTIVE, mode="max", max_t=epochs,
        grace_period=space.study.grace_epochs, reduction_factor=space.study.reduction_factor,
    )  # fmt: skip


class _Recorder(tune.Callback):
    """Writes how each trial ended to its folder, and passes events on."""

    def __init__(self, folder: StudyFolder, epochs: int, on_event: OnEvent) -> None:
        self._folder, self._epochs, self._on_event = folder, epochs, on_event

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore of its own, which is not used here; a progress
        # view cannot be pickled.
        return {}

    def on_trial_start(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:
        self._folder.begin(trial.config["folder"], trial.config["overrides"])

    def on_trial_result(
        self, iteration: int, trials: Iterable[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "error" not in result:
            self._on_event("epoch", trial.config["folder"], result)

    def on_trial_complete(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result
        state = "complete"
        if "error" in last:
            state = "failed"
        elif last.get("diverged"):
            state = "diverged"
        elif last.get("epoch", 0) < self._epochs:
            state = "stopped"
        self._end(trial, state, last.get("error"))

    def on_trial_error(self, iteration: int, trials: Iterable[Any], trial: Any, **info: Any) -> None:
        self._end(trial, "failed", _last_line(trial.error_file))

    def _end(self, trial: Any, state: str, error: str | None) -> None:
        name = trial.config["folder"]
        self._folder.finish(name, state, error)
        self._on_event("ended", name, {**trial.last_result, "state": state, "error": error})


def _last_line(error_file: str | None) -> str:
    if error_file is None or not Path(error_file).is_file():
        return "the trial's process died"
    lines = [
        line.strip() for line in Path(error_file).read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    return lines[-1] if lines else "the trial's process died"
