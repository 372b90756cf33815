"""Run of a ladder: one study per step, and the points that all steps share.

Every step has the same budget, in trials or in device-hours (one GPU for one hour, without GPUs one CPU), and
is searched alone. With `share_points`, the best points of each step are then evaluated at every step, see
`shared_points`. Device-hours count the trials of a step over all calls, but not decoding or the features that
all steps share. A repeated command skips finished steps. A failed step is recorded and retried by the next
command; the other steps run nevertheless.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError
from evclip_ray.data.manifest.manifest import ManifestError
from evclip_ray.machine_faults import MachineFault, find_fault
from evclip_ray.progress import Progress, stage
from evclip_ray.scaling.ladder_folder import NOTED_STEPS, LadderFolder
from evclip_ray.scaling.ladder_steps import Ladder, LadderStep
from evclip_ray.scaling.shared_points import add_points, added_points, enqueue_points, lacking_points
from evclip_ray.scaling.tables import best_trial, device_seconds, write_tables
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.tensorboard.hparams import declare_domains
from evclip_ray.training.video_lists import check_source
from evclip_ray.tuning.cost import StudyCost
from evclip_ray.tuning.equal_settings import as_recorded
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.plan import StudyPlan
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.study_rows import VideosChanged
from evclip_ray.tuning.tuner import Outcome, StudyRun

log = logging.getLogger(__name__)
Prepare = Callable[[StudyRun], None]
Search = Callable[[StudyRun, StudyPlan], Outcome]
OnStep = Callable[["StepState"], None]
Machines = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class StepState:
    """State of a step, as written to the ledger.

    Attributes:
        name: Name of the step.
        settings: Overrides that distinguish the step.
        state: "finished", "failed" or "interrupted".
        error: Reason of a failure.
        devices: Devices of one trial.
        train_videos: Training videos of the first variant of the videos.
    """

    name: str
    settings: dict[str, Any]
    state: str
    error: str | None = None
    devices: float = 1.0
    train_videos: int | None = None


class LadderRun:
    """A ladder in its folder: call `plan`, then `run`. `rows` holds the rows of ladder.csv after each step.

    Args:
        ladder: The ladder.
        root: Folder of the ladder.
        cache: Folder of the caches of videos and features.
        device_hours: Budget of each step; None for the number of trials of its search space.
        measure: Also measure time and memory of each step's best experiment on this machine.

    Raises:
        ConfigError: Points are to be shared and the budget is in device-hours.
    """

    def __init__(
        self,
        ladder: Ladder,
        root: Path,
        *,
        cache: Path,
        device_hours: float | None = None,
        measure: bool = True,
    ) -> None:
        if ladder.share_points and device_hours is not None:
            raise ConfigError(
                f"share_points = {ladder.share_points} compares steps over equally many points, but steps of "
                f"{device_hours:g} device-hours run different numbers of trials. Give --trials instead of "
                "--device-hours, or --share-points 0."
            )
        self.ladder, self.folder, self.cache = ladder, LadderFolder(root.expanduser().resolve()), cache
        self.device_hours, self.measure = device_hours, measure
        self.rows: list[dict[str, Any]] = []

    def check_videos(self) -> None:
        """Read every list of the steps and look for a sample of its files. It needs no Ray.

        Raises:
            ConfigError: A list is invalid, or none of its files exist. The message has the step if there are
                several lists.
        """
        lists: dict[tuple[Any, ...], tuple[str, ExperimentConfig]] = {}
        for step in self.ladder.steps:
            for settings in step.space.decoded_variants():
                experiment = step.space.experiment(settings)
                data = experiment.data
                read = data.manifest, data.root, data.allow_leaks, *sorted(data.columns.items())
                lists.setdefault(read, (step.name, experiment))
        for name, experiment in lists.values():
            try:
                check_source(experiment, cache=self.cache)
            except ManifestError as problem:
                raise ConfigError(f"step {name}: {problem}" if len(lists) > 1 else str(problem)) from None

    def plan(
        self, machines: Machines, *, measure: bool = False, progress: Progress | None = None
    ) -> dict[str, StudyPlan]:
        """Plan each step without writing to the folder. Shared points that are not known yet count as trials.

        Args:
            machines: Resources of each machine, with Ray's names.
            measure: Take a few training steps to estimate the cost.
            progress: Called while missing videos of the small world are drawn.

        Raises:
            ValueError: a trial can never be placed, the folder belongs to another ladder, or its videos have
                changed.
        """
        self.folder.check(as_recorded(self.ladder.identity(), self.folder))
        try:
            return self._plans(machines, measure=measure, progress=progress)
        except VideosChanged as change:
            raise ArtifactError(
                f"{self.folder.root}: its videos are not those that it began with ({change.difference}). "
                "Steps on different videos cannot be compared. Restore the list, or begin a new ladder in "
                "another --out."
            ) from None

    def _plans(self, machines: Machines, *, measure: bool, progress: Progress | None) -> dict[str, StudyPlan]:
        plans = {}
        to_come = self._points_to_come()
        for step in self.ladder.steps:
            study = self._study(step, more_trials=to_come[step.name])
            if self.device_hours is not None:
                # Planned twice: the seconds of a budget depend on the number of concurrent trials, which the
                # first plan gives.
                planned = study.plan(machines, progress=progress)
                study = self._study(step, time_budget=self._seconds_left(step, planned))
            plans[step.name] = study.plan(machines, measure=measure, progress=progress)
        return plans

    def run(
        self, machines: Machines, *, prepare: Prepare, search: Search, on_step: OnStep | None = None
    ) -> list[StepState]:
        """Run every unfinished step in order and write the tables after each. Stop at an interruption.

        Args:
            machines: Resources of each machine, with Ray's names.
            prepare: Prepares the videos of a step's study.
            search: Runs the trials of a step's study.
            on_step: Called after each step.

        Raises:
            ArtifactError: the folder belongs to another ladder, or another process runs this one.
            OSError: a fault of the machine, such as a full disk, paused the ladder.
        """
        self.folder.claim(as_recorded(self.ladder.identity(), self.folder))
        with self.folder.lock():
            declare_domains(self.folder.root, self.ladder.domains(), objective=self.ladder.objective)
            states: dict[str, StepState] = {}
            for step in self._visits(states):
                state = states[step.name] = self._run_step(step, machines, prepare, search)
                self._note(state)
                # After each step, so that an interrupted ladder has the tables of its finished steps.
                with stage("computing the tables of the ladder"):
                    self.rows = write_tables(self.folder, self.ladder, measure=self.measure)
                if on_step is not None:
                    on_step(state)
                if state.state == "interrupted":
                    break
            return list(states.values())

    def _visits(self, states: Mapping[str, StepState]) -> Iterator[LadderStep]:
        """Yield the steps to run: each one, then each that lacks shared points.

        Args:
            states: States of the steps so far, which the caller extends between two steps.
        """
        # Finished steps are visited too: `_search` runs nothing for a step without missing trials.
        yield from self.ladder.steps
        if not self.ladder.share_points:
            return
        finished = {
            step.name: (step, StudyFolder(self.folder.step(step.name)))
            for step in self.ladder.steps
            if states[step.name].state == "finished"
        }
        for name, points in lacking_points(finished, self.ladder.share_points).items():
            if points:
                step, folder = finished[name]
                add_points(folder, points)
                yield step

    def _points_to_come(self) -> dict[str, int]:
        """Return the number of shared points to be added by step, or its bound before all trials ended."""
        steps = {step.name: (step, StudyFolder(self.folder.step(step.name))) for step in self.ladder.steps}
        to_come = dict.fromkeys(steps, 0)
        if not self.ladder.share_points:
            return to_come
        if any(self._study(step).missing() for step, _ in steps.values()):
            return dict.fromkeys(steps, self.ladder.share_points * (len(steps) - 1))
        lacking = lacking_points(steps, self.ladder.share_points)
        return to_come | {name: len(points) for name, points in lacking.items()}

    def _note(self, state: StepState) -> None:
        """Write the state of a step to the ledger and keep the states of the other steps."""
        noted = {step["name"]: step for step in self.folder.ledger().get(NOTED_STEPS, [])}
        self.folder.note(**{NOTED_STEPS: list({**noted, state.name: dataclasses.asdict(state)}.values())})

    def _run_step(self, step: LadderStep, machines: Machines, prepare: Prepare, search: Search) -> StepState:
        state = StepState(step.name, step.settings, "failed")
        try:
            study = self._study(step)
            plan = study.plan(machines)
            state = dataclasses.replace(
                state, devices=_devices(plan), train_videos=len(plan.variants[0].rows["train"])
            )
            outcome = self._search(step, study, plan, machines, prepare, search)
        except Exception as error:
            # A full disk would end the next steps too.
            if isinstance(error, MachineFault) or find_fault(error) is not None:
                raise
            # The next steps run nevertheless; the reason is printed and written to the ledger.
            log.info("step %s failed", step.name, exc_info=True)
            return dataclasses.replace(state, error=" ".join(f"{type(error).__name__}: {error}".split()))
        if outcome is not None and outcome.interrupted:
            return dataclasses.replace(state, state="interrupted")
        reason = self._why_failed(step, outcome)
        return dataclasses.replace(state, state="failed" if reason else "finished", error=reason)

    def _search(
        self,
        step: LadderStep,
        study: StudyRun,
        plan: StudyPlan,
        machines: Machines,
        prepare: Prepare,
        search: Search,
    ) -> Outcome | None:
        """Run the missing trials of a step. Return None if nothing is missing."""
        # A budget without a number of trials never has missing = 0; it ends when the device time is spent.
        limited = self.device_hours is None or step.space.study.trials is not None
        if (limited and plan.missing == 0) or self._is_spent(step, plan):
            return None
        study.claim()
        enqueue_points(study.folder, study.space)
        prepare(study)
        if self.device_hours is not None:
            # The budget starts here: decoded videos serve the later steps as well.
            study = self._study(step, time_budget=self._seconds_left(step, plan))
            plan = study.plan(machines)
        return search(study, plan)

    def _study(self, step: LadderStep, *, more_trials: int = 0, time_budget: float | None = None) -> StudyRun:
        """Return the study of a step.

        Args:
            step: The step.
            more_trials: Trials besides those of its search space and its shared points.
            time_budget: Seconds from now, or None.
        """
        root = self.folder.step(step.name)
        # Device-hours count trials only, so trials must not wait for videos.
        in_background = self.device_hours is None
        # All steps of a ladder store frames alike, also a step that a newer version adds to an old ladder.
        others = (self.folder.step(other.name) for other in self.ladder.steps if other.name != step.name)
        like = next((path for path in others if StudyFolder(path).fixed.is_file()), None)
        begin = functools.partial(
            StudyRun,
            root=root,
            cache=self.cache,
            time_budget=time_budget,
            in_background=in_background,
            like=like,
        )
        study = begin(step.space)
        more_trials += len(added_points(study.folder))
        if not more_trials or math.isinf(study.trials):
            return study
        config = step.space.study.model_copy(update={"trials": int(study.trials) + more_trials})
        space = dataclasses.replace(step.space, study=config)
        return begin(space)

    def _is_spent(self, step: LadderStep, plan: StudyPlan) -> bool:
        return self.device_hours is not None and self._seconds_left(step, plan) <= 0

    def _seconds_left(self, step: LadderStep, plan: StudyPlan) -> float:
        """Return the seconds until a step's device-hours are spent, with all its slots in use."""
        assert self.device_hours is not None
        spent = device_seconds(leaderboard(StudyFolder(self.folder.step(step.name)).trials()), _devices(plan))
        # Device-seconds become wall-clock seconds: `concurrent` trials with `_devices` devices each run in
        # parallel.
        return max(0.0, self.device_hours * 3600 - spent) / (plan.concurrent * _devices(plan))

    def _why_failed(self, step: LadderStep, outcome: Outcome | None) -> str | None:
        rows = leaderboard(StudyFolder(self.folder.step(step.name)).trials())
        if best_trial(rows) is None:
            errors = [row.error for row in rows if row.error]
            return f"no trial has a score: {errors[0] if errors else 'every one diverged in its first epoch'}"
        # The end of the time is the normal end of a budgeted step and no failure.
        if outcome is not None and outcome.missing and not outcome.out_of_time:
            return f"trials that did not run, although nothing interrupted them: {outcome.missing:.0f}"
        return None


def total_seconds(plans: Mapping[str, StudyPlan]) -> float:
    """Return the duration of measured plans without early stopping, inf without a limit on trials."""
    return sum(_seconds(plan.cost) for plan in plans.values() if plan.cost is not None)


def _seconds(cost: StudyCost) -> float:
    if math.isinf(cost.trials):
        return math.inf
    # Trials start in rounds of `concurrent`; the last round may be partly empty.
    rounds = math.ceil(cost.trials / max(1, cost.concurrent))
    return cost.once_seconds + rounds * cost.trial_seconds


def _devices(plan: StudyPlan) -> float:
    """Return the number of devices of one trial."""
    return (plan.request.gpus or plan.request.cpus) * plan.request.workers
