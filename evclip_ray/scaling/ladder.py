"""A ladder: one study a step, each started from the best points of the one below, and what they say together.

The budget of every step is the same: so many trials, or so many device-hours (a GPU for an hour;
without GPUs a CPU). Device-hours are counted over a step's trials, whenever they ran; decoding and
the features that all steps share are not. Finished steps are kept when the same command comes again; a step
that fails is noted, tried again the next time, and does not keep the others from running.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.scaling.ladder_folder import NOTED_STEPS, LadderFolder
from evclip_ray.scaling.ladder_steps import Ladder, LadderStep
from evclip_ray.scaling.tables import best_trial, device_seconds, write_tables
from evclip_ray.training.datamodule import Progress
from evclip_ray.training.tensorboard.hparams import declare_domains
from evclip_ray.tuning.cost import StudyCost
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.plan import StudyPlan
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.tuner import Outcome, StudyRun

log = logging.getLogger(__name__)
Prepare = Callable[[StudyRun], None]
Search = Callable[[StudyRun, StudyPlan], Outcome]
OnStep = Callable[["StepState"], None]
Machines = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class StepState:
    """How a step stands. `state`: "finished", "failed" (with its `error`) or "interrupted".

    `devices`: that a trial takes; `train_videos`: of the first variant of the videos.
    """

    name: str
    settings: dict[str, Any]
    state: str
    error: str | None = None
    warm_start: str | None = None
    devices: float = 1.0
    train_videos: int | None = None


class LadderRun:
    """A ladder in its folder: plan, then run step by step.

    `device_hours`: of each step; None: so many trials as its space says. `measure`: time and memory
    of each step's best experiment are measured here, beside what is counted. `rows`: of ladder.csv, once
    it has been written.
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
        self.ladder, self.folder, self.cache = ladder, LadderFolder(root.expanduser().resolve()), cache
        self.device_hours, self.measure = device_hours, measure
        self.rows: list[dict[str, Any]] = []

    def plan(
        self, machines: Machines, *, measure: bool = False, progress: Progress | None = None
    ) -> dict[str, StudyPlan]:
        """What each step is going to do; nothing is written to the folder.

        `progress`: of making synthetic videos where they are missing.

        Raises:
            ValueError: a trial that can never be placed; the folder of another ladder.
        """
        self.folder.check(self.ladder.identity())
        plans = {}
        for step in self.ladder.steps:
            study = self._study(step)
            if self.device_hours is not None:
                planned = study.plan(machines, progress=progress)
                study = self._study(step, time_budget=self._seconds_left(step, planned))
            plans[step.name] = study.plan(machines, measure=measure, progress=progress)
        return plans

    def run(
        self, machines: Machines, *, prepare: Prepare, search: Search, on_step: OnStep | None = None
    ) -> list[StepState]:
        """Run every step that is not finished, in order, and write the tables after each.

        `prepare` and `search` take a step's study through its two long parts. An interrupted step is
        the last.

        Raises:
            ArtifactError: the folder of another ladder, or one that another process runs.
        """
        self.folder.claim(self.ladder.identity())
        with self.folder.lock():
            declare_domains(self.folder.root, self.ladder.domains())
            states: list[StepState] = []
            for step in self.ladder.steps:
                state = self._climb(step, _last_finished(states), machines, prepare, search)
                states.append(state)
                self._note(state)
                self.rows = write_tables(self.folder, self.ladder, measure=self.measure)
                if on_step is not None:
                    on_step(state)
                if state.state == "interrupted":
                    break
            return states

    def _note(self, state: StepState) -> None:
        """Write down how a step stands; what an earlier call noted of the others stays."""
        noted = {step["name"]: step for step in self.folder.ledger().get(NOTED_STEPS, [])}
        self.folder.note(**{NOTED_STEPS: list({**noted, state.name: dataclasses.asdict(state)}.values())})

    def _climb(
        self, step: LadderStep, below: str | None, machines: Machines, prepare: Prepare, search: Search
    ) -> StepState:
        state = StepState(step.name, step.settings, "failed", warm_start=below)
        try:
            study = self._study(step, below)
            plan = study.plan(machines)
            state = dataclasses.replace(
                state, devices=_devices(plan), train_videos=len(plan.variants[0].rows["train"])
            )
            outcome = self._search(step, below, study, plan, machines, prepare, search)
        except Exception as error:
            # Whatever stops one step, the next may run; the reason is printed, and kept in the ledger.
            log.info("step %s failed", step.name, exc_info=True)
            return dataclasses.replace(state, error=" ".join(f"{type(error).__name__}: {error}".split()))
        if outcome is not None and outcome.interrupted:
            return dataclasses.replace(state, state="interrupted")
        reason = self._why_failed(step, outcome)
        return dataclasses.replace(state, state="failed" if reason else "finished", error=reason)

    def _search(
        self,
        step: LadderStep,
        below: str | None,
        study: StudyRun,
        plan: StudyPlan,
        machines: Machines,
        prepare: Prepare,
        search: Search,
    ) -> Outcome | None:
        """Run what is missing of a step; None where nothing is."""
        limited = self.device_hours is None or step.space.study.trials is not None
        if (limited and plan.missing == 0) or self._is_spent(step, plan):
            return None
        study.claim()
        prepare(study)
        if self.device_hours is not None:
            # The time counts from here: what a step decodes, the steps after it find decoded.
            study = self._study(step, below, time_budget=self._seconds_left(step, plan))
            plan = study.plan(machines)
        return search(study, plan)

    def _study(
        self, step: LadderStep, below: str | None = None, *, time_budget: float | None = None
    ) -> StudyRun:
        earlier = [self.folder.step(below)] if below is not None else []
        return StudyRun(
            step.space, self.folder.step(step.name), cache=self.cache,
            # Device-hours are those of trials, which must not wait for videos then.
            warm_start=earlier, time_budget=time_budget, in_background=self.device_hours is None,
        )  # fmt: skip

    def _is_spent(self, step: LadderStep, plan: StudyPlan) -> bool:
        return self.device_hours is not None and self._seconds_left(step, plan) <= 0

    def _seconds_left(self, step: LadderStep, plan: StudyPlan) -> float:
        """Wall-clock seconds until a step's device-hours are spent, all its places taken."""
        assert self.device_hours is not None
        spent = device_seconds(leaderboard(StudyFolder(self.folder.step(step.name)).trials()), _devices(plan))
        return max(0.0, self.device_hours * 3600 - spent) / (plan.concurrent * _devices(plan))

    def _why_failed(self, step: LadderStep, outcome: Outcome | None) -> str | None:
        rows = leaderboard(StudyFolder(self.folder.step(step.name)).trials())
        if best_trial(rows) is None:
            errors = [row.error for row in rows if row.error]
            return f"no trial has a score: {errors[0] if errors else 'every one diverged in its first epoch'}"
        if outcome is not None and outcome.missing and not outcome.out_of_time:
            return f"trials that did not run, although nothing interrupted them: {outcome.missing:.0f}"
        return None


def total_seconds(plans: Mapping[str, StudyPlan]) -> float:
    """Wall-clock seconds at most of measured plans, step after step; inf without a limit on trials."""
    return sum(_seconds(plan.cost) for plan in plans.values() if plan.cost is not None)


def _seconds(cost: StudyCost) -> float:
    if math.isinf(cost.trials):
        return math.inf
    rounds = math.ceil(cost.trials / max(1, cost.concurrent))
    return cost.once_seconds + rounds * cost.trial_seconds


def _devices(plan: StudyPlan) -> float:
    """Return the number of devices of one trial."""
    return (plan.request.gpus or plan.request.cpus) * plan.request.workers


def _last_finished(states: Sequence[StepState]) -> str | None:
    finished = [state.name for state in states if state.state == "finished"]
    return finished[-1] if finished else None
