"""A study: Ray Tune over a search space, with everything that matters kept in the study's folder.

Resuming does not go through Tune's own state. A finished trial is a folder with a `result.json`
and an entry in the Optuna journal; a trial that a kill, Ctrl-C or the end of the time interrupted is
asked again, with the same point and in the same folder, where its run goes on after its last epoch.
A study can therefore be resumed after any kill, as often as one likes, and with more trials than it
began with.
"""

import dataclasses
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune

from evclip_ray.artifacts import write_json
from evclip_ray.ray_internals import HEAD_RESOURCE
from evclip_ray.training.datamodule import Progress, check_space, plan_videos
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.resources import ResourceRequest, trial_slots
from evclip_ray.training.tensorboard.hparams import declare_domains
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.callbacks import OnEvent, Recorder
from evclip_ray.tuning.optuna_storage import count_missing, open_optuna, recover
from evclip_ray.tuning.plan import StudyPlan, frozen_variants, plan_study
from evclip_ray.tuning.preparation import Preparation, Variant, make_ready, may_wait
from evclip_ray.tuning.scheduler import make_scheduler
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.searcher import StudySearch
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trainable import run_trial
from evclip_ray.tuning.warm_start import WarmStart, apply_warm_start, measured_on, read_warm_start

_TUNE = ".ray"
_TRIALS = 16


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a study call ended. `rows`: the leaderboard; `missing`: trials still to be run (inf: no limit)."""

    rows: list[dict[str, Any]]
    missing: float
    interrupted: bool = False
    out_of_time: bool = False


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
    """A study in its folder, step by step: plan, claim the folder, prepare the videos, run.

    `warm_start`: folders of earlier studies; each is read once, and not needed afterwards.
    `time_budget`: seconds from now, after which no trial starts and the running ones are paused.
    `beside`: whether trials may start before all is prepared, where a cluster has nodes for that.
    """

    def __init__(
        self,
        space: SearchSpace,
        root: Path,
        *,
        cache: Path,
        warm_start: Sequence[Path] = (),
        time_budget: float | None = None,
        beside: bool = True,
    ) -> None:
        self.space, self.folder, self.cache = space, StudyFolder(root.expanduser().resolve()), cache
        self.time_budget, self.beside = time_budget, beside
        self._deadline = None if time_budget is None else time.monotonic() + time_budget
        self._earlier = [path.expanduser().resolve() for path in warm_start]
        self._measured: dict[str, str] = {}
        self._request: ResourceRequest | None = None
        self._left: dict[str, Variant] = {}

    @property
    def trials(self) -> float:
        """Trials in all; infinitely many where only the time limits them."""
        if self.space.study.trials is not None:
            return self.space.study.trials
        return _TRIALS if self.time_budget is None else math.inf

    def missing(self) -> float:
        """Trials still to run.

        Raises:
            ValueError: the folder of another study, or one with other files.
        """
        self.folder.check(identity(self.space))
        if not self.folder.journal.is_file():
            return self.trials
        return count_missing(self._optuna(), self.trials)

    def plan(
        self,
        machines: Sequence[Mapping[str, float]],
        *,
        measure: bool = False,
        progress: Progress | None = None,
    ) -> StudyPlan:
        """What is going to happen; nothing is written to the folder.

        `progress`: of making synthetic videos where they are missing.

        Raises:
            ValueError: a trial that can never be placed; the folder of another study; an earlier study
                that is none.
        """
        self._request = self.space.study.request(machines)
        return plan_study(
            self.space, request=self._request, machines=machines, cache=self.cache,
            trials=self.trials, missing=self.missing(), time_budget=self.time_budget,
            warm_start=self._warm_starts(), measure=measure, progress=progress,
        )  # fmt: skip

    def _warm_starts(self) -> list[WarmStart]:
        """The earlier studies of which nothing has been taken yet."""
        begun = self.folder.check(identity(self.space))
        taken = {w["folder"] for w in self.folder.ledger().get("warm_start", [])} if begun else set()
        most = int(min(self.space.study.warm_points, self.trials))
        if self.folder.root in self._earlier:
            raise ValueError(
                f"--warm-start {self.folder.root}: is the study itself; the same --out resumes it"
            )
        return [
            read_warm_start(path, self.space, measured=self._measured_on, most_points=most)
            for path in self._earlier
            if str(path) not in taken
        ]

    def _measured_on(self, experiment: ExperimentConfig) -> str:
        key = videos_key(experiment)
        if key not in self._measured:
            self._measured[key] = measured_on(plan_videos(experiment, cache=self.cache))
        return self._measured[key]

    def claim(self) -> None:
        """Make the folder this study's, or find that it is already.

        Raises:
            ArtifactError: the folder of another study, or one that another process runs.
        """
        self.folder.claim(identity(self.space))
        write_json(self.folder.fixed, dict(self.space.fixed))
        declare_domains(self.folder.root, {found.path: found.domain for found in self.space.search})

    def prepare(self, progress: Progress | None = None) -> None:
        """Make ready what trials read: videos decoded once, and what frozen networks say of them.

        Where nodes without room for a trial can do that beside the trials, it is left to `run`.

        Raises:
            OSError: there is no space for all of it.
        """
        assert self._request is not None, "a study is planned before it is prepared"
        with self.folder.lock():
            variants = self._variants()
            plans = {key: variant.plan for key, variant in variants.items()}
            check_space(plans.values(), cache=self.cache)
            self.folder.note(measured={key: measured_on(plan) for key, plan in plans.items()})
            if self.beside and may_wait(variants.values(), self._request):
                self._left = variants
            else:
                make_ready(variants.values(), cache=self.cache, request=self._request, progress=progress)

    def _variants(self) -> dict[str, Variant]:
        """What trials of the same videos read, by the key of these."""
        found: dict[str, list[ExperimentConfig]] = {}
        for settings in frozen_variants(self.space):
            experiment = self.space.experiment(settings)
            found.setdefault(videos_key(experiment), []).append(experiment)
        return {
            key: Variant(plan_videos(same[0], cache=self.cache), tuple(same), self.folder.videos(key))
            for key, same in found.items()
        }

    def run(self, plan: StudyPlan, on_event: OnEvent, progress: Progress | None = None) -> Outcome:
        """Run the trials that are missing; `progress`: of what is still being prepared beside them.

        Ctrl-C, or the end of the time, ends the call early, with everything finished so far on disk; so
        does a preparation that fails.

        Raises:
            ArtifactError: another process runs this study.
            ValueError, OSError: what could not be prepared.
        """
        with self.folder.lock():
            study = self._optuna()
            self._take_in(study)
            stops = Stops(self._deadline, max_epochs=plan.epochs)
            beside = Preparation(
                self._left, cache=self.cache, request=plan.request, stops=stops, progress=progress
            )  # fmt: skip
            with beside:
                self._run_missing(study, plan, stops, beside, on_event)
            rows = self.folder.write_leaderboard()
            if stops.error is not None:
                raise stops.error
            left = count_missing(study, self.trials)
            return Outcome(rows, left, stops.interrupted, stops.out_of_time)

    def _run_missing(
        self, study: optuna.Study, plan: StudyPlan, stops: Stops, beside: Preparation, on_event: OnEvent
    ) -> None:
        before: float | None = None
        # Tune loses a trial now and then, as where a busy process does not answer in time when it is
        # to take the next one: what is missing is asked again for as long as anything comes of it.
        while (missing := count_missing(study, self.trials)) not in (0, before) and not stops.is_over:
            before = missing
            recover(study, self.folder)
            _fit(
                self.space, self.folder, study, plan=plan, missing=missing, stops=stops,
                beside=beside, on_event=on_event,
            )  # fmt: skip

    def _take_in(self, study: optuna.Study) -> None:
        for found in self._warm_starts():
            apply_warm_start(study, self.space, found)
            self.folder.note(warm_start=[*self.folder.ledger().get("warm_start", []), found.record()])

    def _optuna(self) -> optuna.Study:
        study = self.space.study
        return open_optuna(self.folder, seed=study.seed, sampler=study.sampler, trials=self.trials)


def _fit(
    space: SearchSpace,
    folder: StudyFolder,
    study: optuna.Study,
    *,
    plan: StudyPlan,
    missing: float,
    stops: Stops,
    beside: Preparation,
    on_event: OnEvent,
) -> None:
    epochs, request = plan.epochs, plan.request
    search = StudySearch(
        space, study, folder, max_epochs=epochs, stops=stops, missing=missing, is_ready=beside.is_ready,
        num_slots=lambda: _slots_now(request),
    )  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(run_trial, _bundle(request)),
        param_space={
            "study": str(folder.root.resolve()), "request": dataclasses.asdict(request),
            "max_failures": space.study.max_failures,
        },
        tune_config=tune.TuneConfig(
            search_alg=search, scheduler=make_scheduler(space, folder, max_epochs=epochs),
            num_samples=-1 if math.isinf(missing) else int(missing),
            max_concurrent_trials=plan.concurrent,
            # A stopped driver of a Train group is still taking it down, and cannot be reused.
            reuse_actors=request.workers == 1,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=_TUNE, storage_path=str(folder.root.resolve()), verbose=0, stop=stops,
            failure_config=tune.FailureConfig(max_failures=space.study.max_failures),
            callbacks=[Recorder(folder, epochs, stops, on_event), beside],
        ),
    )  # fmt: skip
    try:
        with stops.on_interrupt():
            tuner.fit()
    finally:
        # Tune's own state, for a restore that is not used here.
        shutil.rmtree(folder.root / _TUNE, ignore_errors=True)


def _slots_now(request: ResourceRequest) -> int:
    """Return the number of trials that fit on the machines that are up now."""
    return trial_slots(request, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def _bundle(request: ResourceRequest) -> Any:
    if request.workers == 1:
        return request.resources
    # The driver of a group of workers takes no CPU, or drivers would starve their own workers.
    return {"CPU": 0, HEAD_RESOURCE: 0.001}
