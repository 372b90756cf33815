"""A ladder: one study a rung, each started from the best points of the one below, and what they say together.

The budget of every rung is the same: so many trials, or so many device-hours (a GPU for an hour;
without GPUs a CPU). Device-hours are counted over a rung's trials, whenever they ran; decoding and
the features that all rungs share are not. Finished rungs are kept when the same command comes again; a rung
that fails is noted, tried again the next time, and does not keep the others from running.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evclip_ray.scaling.ladder_folder import LadderFolder
from evclip_ray.scaling.ladder_steps import Ladder, Rung
from evclip_ray.scaling.tables import best_trial, device_seconds, trials_of, write_tables
from evclip_ray.training.datamodule import Progress
from evclip_ray.training.tensorboard.hparams import declare_domains
from evclip_ray.tuning.cost import StudyCost
from evclip_ray.tuning.plan import StudyPlan
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.tuner import Outcome, StudyRun

log = logging.getLogger(__name__)
Prepare = Callable[[StudyRun], None]
Search = Callable[[StudyRun, StudyPlan], Outcome]
OnRung = Callable[["RungState"], None]
Machines = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class RungState:
    """How a rung stands. `state`: "finished", "failed" (with its `error`) or "interrupted".

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
    """A ladder in its folder: plan, then run rung by rung.

    `device_hours`: of each rung; None: so many trials as its space says. `measure`: time and memory
    of each rung's best experiment are measured here, beside what is counted. `rows`: of ladder.csv, once
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
        """What each rung is going to do; nothing is written to the folder.

        `progress`: of making synthetic videos where they are missing.

        Raises:
            ValueError: a trial that can never be placed; the folder of another ladder.
        """
        self.folder.check(self.ladder.identity())
        plans = {}
        for rung in self.ladder.rungs:
            study = self._study(rung)
            if self.device_hours is not None:
                planned = study.plan(machines, progress=progress)
                study = self._study(rung, time_budget=self._seconds_left(rung, planned))
            plans[rung.name] = study.plan(machines, measure=measure, progress=progress)
        return plans

    def run(
        self, machines: Machines, *, prepare: Prepare, search: Search, on_rung: OnRung | None = None
    ) -> list[RungState]:
        """Run every rung that is not finished, in order, and write the tables after each.

        `prepare` and `search` take a rung's study through its two long parts. An interrupted rung is
        the last.

        Raises:
            ArtifactError: the folder of another ladder, or one that another process runs.
        """
        self.folder.check(self.ladder.identity())
        with self.folder.lock():
            self.folder.claim(self.ladder.identity())
            declare_domains(self.folder.root, self.ladder.domains())
            states: list[RungState] = []
            for rung in self.ladder.rungs:
                state = self._climb(rung, _last_finished(states), machines, prepare, search)
                states.append(state)
                self._note(state)
                self.rows = write_tables(self.folder, self.ladder, measure=self.measure)
                if on_rung is not None:
                    on_rung(state)
                if state.state == "interrupted":
                    break
            return states

    def _note(self, state: RungState) -> None:
        """Write down how a rung stands; what an earlier call noted of the others stays."""
        noted = {rung["name"]: rung for rung in self.folder.ledger().get("rungs", [])}
        self.folder.note(rungs=list({**noted, state.name: dataclasses.asdict(state)}.values()))

    def _climb(
        self, rung: Rung, below: str | None, machines: Machines, prepare: Prepare, search: Search
    ) -> RungState:
        state = RungState(rung.name, rung.settings, "failed", warm_start=below)
        try:
            study = self._study(rung, below)
            plan = study.plan(machines)
            state = dataclasses.replace(
                state, devices=_devices(plan), train_videos=len(plan.variants[0].rows["train"])
            )
            outcome = self._search(rung, below, study, plan, machines, prepare, search)
        except Exception as error:
            # Whatever stops one rung, the next may run; the reason is printed, and kept in the ledger.
            log.info("rung %s failed", rung.name, exc_info=True)
            return dataclasses.replace(state, error=" ".join(f"{type(error).__name__}: {error}".split()))
        if outcome is not None and outcome.interrupted:
            return dataclasses.replace(state, state="interrupted")
        reason = self._why_failed(rung, outcome)
        return dataclasses.replace(state, state="failed" if reason else "finished", error=reason)

    def _search(
        self,
        rung: Rung,
        below: str | None,
        study: StudyRun,
        plan: StudyPlan,
        machines: Machines,
        prepare: Prepare,
        search: Search,
    ) -> Outcome | None:
        """Run what is missing of a rung; None where nothing is."""
        limited = self.device_hours is None or rung.space.study.trials is not None
        if (limited and plan.missing == 0) or self._is_spent(rung, plan):
            return None
        study.claim()
        prepare(study)
        if self.device_hours is not None:
            # The time counts from here: what a rung decodes, the rungs after it find decoded.
            study = self._study(rung, below, time_budget=self._seconds_left(rung, plan))
            plan = study.plan(machines)
        return search(study, plan)

    def _study(self, rung: Rung, below: str | None = None, *, time_budget: float | None = None) -> StudyRun:
        earlier = [self.folder.rung(below)] if below is not None else []
        return StudyRun(
            rung.space, self.folder.rung(rung.name), cache=self.cache,
            # Device-hours are those of trials, which must not wait for videos then.
            warm_start=earlier, time_budget=time_budget, beside=self.device_hours is None,
        )  # fmt: skip

    def _is_spent(self, rung: Rung, plan: StudyPlan) -> bool:
        return self.device_hours is not None and self._seconds_left(rung, plan) <= 0

    def _seconds_left(self, rung: Rung, plan: StudyPlan) -> float:
        """Wall-clock seconds until a rung's device-hours are spent, all its places taken."""
        assert self.device_hours is not None
        spent = device_seconds(trials_of(StudyFolder(self.folder.rung(rung.name))), _devices(plan))
        return max(0.0, self.device_hours * 3600 - spent) / (plan.concurrent * _devices(plan))

    def _why_failed(self, rung: Rung, outcome: Outcome | None) -> str | None:
        rows = trials_of(StudyFolder(self.folder.rung(rung.name)))
        if best_trial(rows) is None:
            errors = [row["error"] for row in rows if row["error"]]
            return f"no trial has a score: {errors[0] if errors else 'every one diverged in its first epoch'}"
        if outcome is not None and outcome.missing and not outcome.out_of_time:
            return f"trials that did not run, although nothing interrupted them: {outcome.missing:.0f}"
        return None


def total_seconds(plans: Mapping[str, StudyPlan]) -> float:
    """Wall-clock seconds at most of measured plans, rung after rung; inf without a limit on trials."""
    return sum(_seconds(plan.cost) for plan in plans.values() if plan.cost is not None)


def _seconds(cost: StudyCost) -> float:
    if math.isinf(cost.trials):
        return math.inf
    rounds = math.ceil(cost.trials / max(1, cost.concurrent))
    return cost.once_seconds + rounds * cost.trial_seconds


def _devices(plan: StudyPlan) -> float:
    """Return the number of devices of one trial."""
    return (plan.request.gpus or plan.request.cpus) * plan.request.workers


def _last_finished(states: Sequence[RungState]) -> str | None:
    finished = [state.name for state in states if state.state == "finished"]
    return finished[-1] if finished else None
