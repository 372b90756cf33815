"""A study: Ray Tune over a search space, with all results in the study's folder.

Resuming does not use Tune's own state. A finished trial is a folder with a `result.json` and an entry in the
Optuna journal. A trial that was interrupted by a kill, Ctrl-C or the end of the time is run again with the
same point in the same folder, where it continues after its last epoch. A study can therefore be resumed after
any kill, any number of times, and with more trials than before.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from evclip_ray.artifacts import LEDGER, ArtifactError, write_json
from evclip_ray.machine_faults import Fault, MachineFault
from evclip_ray.progress import Progress, stage
from evclip_ray.records import LeaderboardRow, TrialRecord, TrialState
from evclip_ray.training.datamodule import check_space
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.resources import ResourceRequest
from evclip_ray.training.tensorboard.hparams import declare_domains
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.callbacks import OnEvent
from evclip_ray.tuning.disk_space import needed_space
from evclip_ray.tuning.equal_settings import as_recorded, begun_location
from evclip_ray.tuning.fit import fit
from evclip_ray.tuning.gpu_measurement import kinds_of_gpus, measure_on_gpu
from evclip_ray.tuning.gpu_share import GpuShare
from evclip_ray.tuning.optuna_storage import (
    count_missing,
    enqueue_failed,
    open_optuna,
    recover,
)
from evclip_ray.tuning.plan import StudyPlan, frozen_variants, plan_study
from evclip_ray.tuning.preparation import Preparation, Variant, make_ready, may_wait
from evclip_ray.tuning.recovery import recover_study
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.study_rows import StudyRows
from evclip_ray.tuning.study_view import with_own_view
from evclip_ray.tuning.trial_repair import num_ended
from evclip_ray.tuning.warm_start import WarmStart, apply_warm_start, measured_on, read_warm_start

_SHARE = "gpu_share"
"""Key of the ledger: trials per GPU, the measured memory, and the kinds of GPUs."""
_TRIALS = 16


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a study call.

    Attributes:
        rows: Leaderboard.
        missing: Trials that are not finished; infinite without a limit.
        interrupted: Whether Ctrl-C ended the call.
        out_of_time: Whether the time limit ended the call.
    """

    rows: list[LeaderboardRow]
    missing: float
    interrupted: bool = False
    out_of_time: bool = False


def identity(space: SearchSpace) -> dict[str, Any]:
    """Return the identity of a study. A folder with another identity is refused.

    The digest of the result is stored on disk and must not change between versions.
    """
    described = space.describe()
    return {
        **described,
        "seed": space.study.seed,
        "scheduler": space.study.scheduler,
        "sampler": space.study.sampler,
    }


class StudyRun:
    """Study in its folder. The steps are: plan, claim the folder, prepare the videos, run.

    Args:
        space: Search space.
        root: Folder of the study.
        cache: Folder of decoded videos and cached features.
        warm_start: Folders of earlier studies. Each is read once and not needed afterwards.
        time_budget: Seconds from now after which no trial starts and running ones are paused.
        in_background: Whether trials may start before all videos are prepared, if the cluster has nodes
            for that.
        fork_of: Folder of an earlier study on fewer or other videos. Its splits and points are taken over.
        like: Folder of a study whose default size of the frames a new study takes over.
        retry_failed: Whether trials that failed run again.
    """

    def __init__(
        self,
        space: SearchSpace,
        root: Path,
        *,
        cache: Path,
        warm_start: Sequence[Path] = (),
        time_budget: float | None = None,
        in_background: bool = True,
        fork_of: Path | None = None,
        like: Path | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.folder, self.cache = StudyFolder(root.expanduser().resolve()), cache
        self.time_budget, self.in_background = time_budget, in_background
        self._retry_failed = retry_failed
        # The clock starts with the call: decoding and features count towards the time budget.
        self.deadline = None if time_budget is None else time.monotonic() + time_budget
        self.fork_of = self._begun_fork() if fork_of is None else fork_of.expanduser().resolve()
        forked = [] if self.fork_of is None else [self.fork_of]
        self._earlier = [path.expanduser().resolve() for path in (*forked, *warm_start)]
        # The identity is that of the given space: the default of the view is not part of it.
        self._identity = identity(space)
        continued = [path for path in (self.folder.root, self.fork_of, like) if path is not None]
        self.space = with_own_view(space, [StudyFolder(path).fixed for path in continued])
        # A moved list is the same study if its videos are the same by content.
        self._begun_location = begun_location(self._identity, self.folder)
        self._rows = StudyRows(
            self.folder, cache=cache, fork_of=self.fork_of, begun_location=self._begun_location
        )
        self._request: ResourceRequest | None = None
        self._share: GpuShare | None = None
        self._gpus: list[str] = []
        self._left: dict[str, Variant] = {}

    def _begun_fork(self) -> Path | None:
        """Return the study that this one forks, if it exists. A later call need not name it again."""
        noted = self.folder.ledger().get("fork_of") if self.folder.has_ledger else None
        return Path(noted) if noted and (Path(noted) / LEDGER).is_file() else None

    @property
    def trials(self) -> float:
        """Number of trials in total; infinite if only the time limits them."""
        if self.space.study.trials is not None:
            return self.space.study.trials
        return _TRIALS if self.time_budget is None else math.inf

    def _check_folder(self) -> bool:
        """Return whether the study was begun before, see `ClaimedFolder.check`."""
        begun = self.folder.check(as_recorded(self._identity, self.folder))
        self.folder.check_objective(self.space.study.objective)
        return begun

    def missing(self) -> float:
        """Return the number of trials that are not finished.

        Raises:
            ValueError: The folder belongs to another study or contains other files.
        """
        self._check_folder()
        retried = self._failed() if self._retry_failed else []
        ended: int = num_ended(self.folder)
        return max(0.0, self.trials - ended + len(retried))

    def _failed(self) -> list[TrialRecord]:
        return [trial for trial in self.folder.trials() if trial.state is TrialState.FAILED]

    def check_videos(self, progress: Progress | None = None) -> None:
        """Choose the videos of all variants. It needs no Ray, so that a wrong list is found at once.

        Args:
            progress: Progress of drawing missing videos of the small world.

        Raises:
            ValueError: The videos cannot be planned, see `plan_videos`.
        """
        for settings in self.space.decoded_variants():
            self._rows.plan(self.space.experiment(settings), progress)

    def plan(
        self,
        machines: Sequence[Mapping[str, float]],
        *,
        measure: bool = False,
        progress: Progress | None = None,
    ) -> StudyPlan:
        """Return the plan of the call. Nothing is written to the folder.

        Args:
            machines: Ray resources of each machine.
            measure: Whether to measure a training step for the estimate of the cost.
            progress: Progress of drawing missing videos of the small world.

        Raises:
            ValueError: A trial does not fit on the machines, the folder belongs to another study, or a
                warm-start folder or the forked one is not a study.
        """
        self._request = self.space.study.request(machines)
        self._gpus = kinds_of_gpus(machines)
        plan = plan_study(
            self.space,
            rows_of=functools.partial(self._rows.plan, progress=progress),
            request=self._request,
            machines=machines,
            cache=self.cache,
            trials=self.trials,
            missing=self.missing(),
            time_budget=self.time_budget,
            warm_start=self._warm_starts(),
            measure=measure,
            share=self._noted_share(machines),
            measure_on_gpu=functools.partial(measure_on_gpu, cache=self.cache),
        )
        self._request, self._share = plan.request, plan.share
        self._rows.check(progress)
        return plan

    def _noted_share(self, machines: Sequence[Mapping[str, float]]) -> GpuShare | None:
        """Return the share of a GPU that an earlier call measured on the same kinds of GPUs."""
        if not self.folder.has_ledger or self.space.study.trials_per_gpu != "auto":
            return None
        noted = self.folder.ledger().get(_SHARE)
        if not noted or noted["gpus"] != kinds_of_gpus(machines):
            return None
        return GpuShare(noted["count"], noted["reason"])

    def _warm_starts(self) -> list[WarmStart]:
        """Read the earlier studies that have not been used yet."""
        begun = self._check_folder()
        if self.fork_of is not None and not begun and not (self.fork_of / LEDGER).is_file():
            raise ArtifactError(
                f"--fork: --out {self.fork_of} must be the folder of a study, found no {LEDGER}"
            )
        # A warm start is applied once. The ledger lists the studies that were used, so that a resumed call
        # neither reads them again nor needs their folders.
        taken = {w["folder"] for w in self.folder.ledger().get("warm_start", [])} if begun else set()
        max_points = int(min(self.space.study.warm_points, self.trials))
        if self.folder.root in self._earlier:
            raise ValueError(
                f"--warm-start {self.folder.root}: this is the study itself. The same --out resumes it."
            )
        return [
            read_warm_start(path, self.space, measured=self._measured_on, most_points=max_points)
            for path in self._earlier
            if str(path) not in taken
        ]

    def _measured_on(self, experiment: ExperimentConfig) -> str:
        return measured_on(self._rows.plan(experiment))

    def claim(self) -> None:
        """Claim the folder for this study, or check that it belongs to it.

        Raises:
            ArtifactError: The folder belongs to another study, or another process runs this study.
        """
        # The ledger comes first: a folder that another study owns must not be changed.
        self.folder.check_objective(self.space.study.objective)
        # Noted before anything else is written: a killed fork that is resumed by its own folder keeps its
        # splits and its points.
        forked = {} if self.fork_of is None else {"fork_of": str(self.fork_of)}
        identity = as_recorded(self._identity, self.folder)
        self.folder.claim(identity, objective=self.space.study.objective, **forked)
        if self._share is not None:
            self.folder.note(**{_SHARE: {**dataclasses.asdict(self._share), "gpus": self._gpus}})
        write_json(self.folder.fixed, dict(self.space.fixed))
        declare_domains(self.folder.root, self.space.domains, objective=self.space.study.objective)

    def prepare(self, progress: Progress | None = None) -> None:
        """Decode the videos and compute the cached features that trials read.

        If the cluster has nodes on which no trial fits, `run` does this in parallel with the trials.

        Args:
            progress: Progress of decoding and of the features.

        Raises:
            OSError: The disk has too little space.
        """
        assert self._request is not None, "a study is planned before it is prepared"
        with self.folder.lock():
            variants = self._variants(progress)
            plans = {key: variant.plan for key, variant in variants.items()}
            check_space(plans.values(), cache=self.cache)
            # The digests let a later study decide whether these trials are evidence for it, see `warm_start`.
            self.folder.note(measured={key: measured_on(plan) for key, plan in plans.items()})
            self.folder.note(selection={key: plan.selection_record for key, plan in plans.items()})
            if self.in_background and may_wait(variants.values(), self._request):
                self._left = variants
            else:
                make_ready(variants.values(), cache=self.cache, request=self._request, progress=progress)

    def _variants(self, progress: Progress | None) -> dict[str, Variant]:
        """Return the variants of the videos by key, with their rows on record."""
        by_videos: dict[str, list[ExperimentConfig]] = {}
        for settings in frozen_variants(self.space):
            experiment = self.space.experiment(settings)
            by_videos.setdefault(videos_key(experiment), []).append(experiment)
        variants = {}
        for key, same in by_videos.items():
            plan = self._rows.plan(same[0], progress)
            file, record = self._rows.write(key, progress)
            variants[key] = Variant(plan, tuple(same), self.folder.videos(key), file, record.keys())
        return variants

    def finished(self) -> Outcome:
        """Return the outcome of a study without missing trials, after repairing its files.

        Raises:
            ArtifactError: The folder belongs to another study, or another process runs this study.
        """
        if self._begun_location is not None:
            self.check_videos()
            self._rows.check()
        self.claim()
        with self.folder.lock():
            if moved := self._rows.write_moved():
                measured = self.folder.ledger().get("measured", {})
                self.folder.note(measured={**measured, **moved})
            recover_study(self.folder, self.space)
            return Outcome(self.folder.write_leaderboard(), missing=0)

    def run(self, plan: StudyPlan, on_event: OnEvent, progress: Progress | None = None) -> Outcome:
        """Run the missing trials.

        Ctrl-C, the end of the time, a fault of the machine and a failed preparation end the call early.
        Finished work is on disk.

        Args:
            plan: Result of `plan`.
            on_event: Called with every epoch and end of a trial.
            progress: Progress of the preparation that runs in parallel with the trials.

        Raises:
            ArtifactError: Another process runs this study.
            MachineFault: A fault of the machine, such as a full disk, paused the study.
            ValueError, OSError: The preparation failed.
        """
        with self.folder.lock():
            recover_study(self.folder, self.space)
            study = self._optuna()
            self._take_in(study)
            if self._retry_failed:
                enqueue_failed(study, self.folder)
                self._retry_failed = False
            stops = Stops(self.deadline, max_epochs=plan.epochs)
            preparation = Preparation(
                self._left, cache=self.cache, request=plan.request, stops=stops, progress=progress
            )
            with preparation:
                self._run_missing(study, plan, stops, preparation, on_event, progress)
            # A fault of the machine may have cut the last line, so that nothing is written behind it.
            if stops.fault is None:
                with stops.pausing():
                    # Paused trials: a reader of the record would take them for running ones.
                    recover(study, self.folder)
            rows: list[LeaderboardRow] = []
            with stops.pausing(), stage("writing the leaderboard"):
                rows = self.folder.write_leaderboard()
            # Raised after the leaderboard is written, so that the finished trials are not lost with the
            # error.
            if stops.fault is not None:
                raise self._paused_by(stops.fault, plan.concurrent)
            if stops.error is not None:
                raise stops.error
            missing = count_missing(study, self.trials)
            return Outcome(rows, missing, stops.interrupted, stops.out_of_time)

    def _paused_by(self, fault: Fault, at_once: int) -> MachineFault:
        """Return the error of a study that a fault of the machine paused, with the space that it needs."""
        needed = needed_space(self.folder, self.trials, at_once) if fault.kind == "disk" else ""
        line = fault.describe(self.folder.root, needed=needed)
        return MachineFault(
            f"{line} The study is paused and keeps all finished epochs. The same command continues it."
        )

    def _run_missing(
        self,
        study: optuna.Study,
        plan: StudyPlan,
        stops: Stops,
        preparation: Preparation,
        on_event: OnEvent,
        progress: Progress | None,
    ) -> None:
        before: float | None = None
        # Tune sometimes loses a trial, for example when a busy process does not take the next one in time.
        # Missing trials are run again as long as each round finishes at least one.
        while (missing := count_missing(study, self.trials)) not in (0, before) and not stops.is_over:
            # `before` guards against an endless loop: a round that finishes no trial would repeat for ever.
            before = missing
            # In each round: a trial that Tune lost is still RUNNING in the Optuna record and is enqueued
            # again.
            recover(study, self.folder)
            fit(
                self.space,
                self.folder,
                study,
                plan=plan,
                trials=self.trials,
                missing=missing,
                stops=stops,
                preparation=preparation,
                on_event=on_event,
                progress=progress,
            )

    def _take_in(self, study: optuna.Study) -> None:
        for warm_start in self._warm_starts():
            apply_warm_start(study, self.space, warm_start)
            # Noted only after the points are in the journal. A kill between the two repeats the step, and
            # `apply_warm_start` skips what the journal already has.
            self.folder.note(warm_start=[*self.folder.ledger().get("warm_start", []), warm_start.record()])

    def _optuna(self) -> optuna.Study:
        return open_optuna(self.folder)
