"""Trials of a simulated study, with the scheduler of the real study.

Like Tune's driver, the simulated driver handles one event at a time: a new point for each GPU, a process that
is ready, the result of an epoch, and the end of a trial, which is followed by the next point. If a machine is
lost, the current epoch is lost too. Its trials continue after their last epoch once a replacement is up.
"""

import dataclasses
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import simpy
from ray.tune.schedulers import TrialScheduler
from simpy.events import ProcessGenerator

from evclip_ray.objective import OBJECTIVE
from evclip_ray.tuning.scheduler import make_scheduler
from evclip_ray.tuning.search_space import SearchSpace
from evclip_ray.tuning.study_folder import StudyFolder
from simulation.curves import Curves
from simulation.site import Site
from simulation.timesheet import Doing

Survives = Generator[simpy.Event, Any, bool]
"""Process that returns whether the machine still exists at its end."""


@dataclasses.dataclass
class SimulatedTrial:
    """A trial that has begun. `ends` counts its ends (1 at most), `lost` the machines lost under it."""

    number: int
    epochs: int = 0
    stopped: bool = False
    ends: int = 0
    lost: int = 0


@dataclasses.dataclass
class _Gpu:
    """A GPU, the losses of its machine so far, and whether a process has loaded its networks."""

    number: int
    losses: int = 0
    warm: bool = False


class Trials:
    """All trials of a study. `records` contains those that have begun, by number."""

    def __init__(self, site: Site, curves: Curves) -> None:
        plan = site.plan
        self._site, self._env, self._plan, self._curves = site, site.env, plan, curves
        # The folder does not exist, so the scheduler sees no earlier trials.
        space = SearchSpace("simulated", {}, (), plan.study)
        self._scheduler = make_scheduler(space, StudyFolder(Path("/nonexistent")), max_epochs=plan.epochs)
        spread = np.random.default_rng((plan.study.seed, 1)).standard_normal(plan.trials)
        self._epoch_seconds = plan.trial.epoch_seconds * np.exp(plan.trial.epoch_spread * spread)
        self._copies: dict[tuple[int, int], simpy.Event] = {}
        self._num_epochs, self._num_running = 0, 0
        self.records: list[SimulatedTrial] = []
        self.heard: list[tuple[int, int, str]] = []
        """(trial, epoch, decision) in the order in which the driver receives the results."""

    def run(self) -> ProcessGenerator:
        """Run until the last trial has ended."""
        self._site.timesheet.enter_all(Doing.DRIVER)
        yield from self._site.driver.work(self._plan.driver.startup_seconds)
        first = []
        for _ in range(min(self._site.num_gpus, self._plan.trials)):
            first.append((yield from self._begin()))
        for gpu in range(len(first), self._site.num_gpus):
            self._site.timesheet.enter(gpu, Doing.NEVER)
        gpus = [self._gpu(_Gpu(gpu), trial) for gpu, trial in enumerate(first)]
        yield self._env.all_of([self._env.process(gpu) for gpu in gpus])
        yield from self._site.driver.work(self._plan.driver.finish_seconds)

    def _gpu(self, gpu: _Gpu, trial: SimulatedTrial) -> ProcessGenerator:
        while True:
            while not trial.ends:
                yield from self._attempt(gpu, trial)
            if len(self.records) == self._plan.trials:
                break
            self._enter(gpu, Doing.DRIVER)
            trial = yield from self._begin()
        self._enter(gpu, Doing.ENDED)

    def _begin(self) -> Generator[simpy.Event, Any, SimulatedTrial]:
        """Request the next point from the searcher."""
        costs, trial = self._plan.driver, SimulatedTrial(len(self.records))
        self.records.append(trial)
        self._scheduler.on_trial_add(None, _as_tune(trial))
        yield from self._site.driver.work(costs.begin_seconds + costs.begin_per_trial * trial.number)
        return trial

    def _attempt(self, gpu: _Gpu, trial: SimulatedTrial) -> ProcessGenerator:
        """Train until the trial ends or the machine is lost."""
        if not (yield from self._start(gpu)):
            return
        self._num_running += 1
        while not trial.ends:
            seconds = self._epoch_seconds[trial.number]
            if not (yield from self._pass(gpu, Doing.TRAINING, seconds)):
                trial.lost += 1
                break
            yield from self._report(gpu, trial)
        self._num_running -= 1

    def _start(self, gpu: _Gpu) -> Survives:
        costs = self._plan.trial
        seconds = costs.next_seconds if gpu.warm else costs.start_seconds
        if not (yield from self._pass(gpu, Doing.START, seconds)):
            return False
        gpu.warm = True
        self._enter(gpu, Doing.DRIVER)
        yield from self._site.driver.work(self._plan.driver.started_seconds)
        self._enter(gpu, Doing.FETCHING)
        yield self._node_copies(gpu)
        return True

    def _node_copies(self, gpu: _Gpu) -> simpy.Event:
        """Return the transfer of a node's copies: once per machine, and again for a replacement."""
        node = gpu.number // self._plan.cluster.gpus_per_node
        if (node, gpu.losses) not in self._copies:
            transfer = self._site.storage.transfer(self._plan.videos.node_bytes)
            self._copies[node, gpu.losses] = transfer
        return self._copies[node, gpu.losses]

    def _report(self, gpu: _Gpu, trial: SimulatedTrial) -> ProcessGenerator:
        """Write the checkpoint and wait for the driver's decision."""
        self._enter(gpu, Doing.WRITING)
        yield self._site.storage.transfer(self._plan.trial.checkpoint_bytes)
        self._enter(gpu, Doing.DRIVER)
        yield self._env.timeout(self._plan.trial.report_seconds)
        yield from self._site.driver.work(self._decide(trial))

    def _decide(self, trial: SimulatedTrial) -> float:
        """Let the scheduler decide on an epoch. Return the seconds of the driver."""
        costs = self._plan.driver
        trial.epochs += 1
        self._num_epochs += 1
        top1 = float(self._curves.of(trial.number)[trial.epochs - 1])
        result = {"epoch": trial.epochs, OBJECTIVE: top1}
        decision = self._scheduler.on_trial_result(None, _as_tune(trial), result)
        self.heard.append((trial.number, trial.epochs, decision))
        seconds = costs.result_seconds + costs.result_per_trial * self._num_running
        if decision == TrialScheduler.STOP or trial.epochs == self._plan.epochs:
            self._scheduler.on_trial_complete(None, _as_tune(trial), result)
            trial.stopped = trial.epochs < self._plan.epochs
            trial.ends += 1
            seconds += costs.end_seconds + costs.end_per_epoch * self._num_epochs
        return seconds

    def _pass(self, gpu: _Gpu, doing: Doing, seconds: float) -> Survives:
        """Spend time on a GPU. If its machine is lost, return False once the replacement is up."""
        loss = self._site.node_of(gpu.number).loss(gpu.losses)
        if loss.down >= self._env.now + seconds:
            self._enter(gpu, doing)
            yield self._env.timeout(seconds)
            return True
        # Losses during transfers or waits for the driver are noticed here, at the next computation.
        self._enter(gpu, Doing.LOST)
        yield self._env.timeout(max(0.0, loss.down - self._env.now))
        self._enter(gpu, Doing.NODE)
        yield self._env.timeout(max(0.0, loss.up - self._env.now))
        gpu.losses, gpu.warm = gpu.losses + 1, False
        return False

    def _enter(self, gpu: _Gpu, doing: Doing) -> None:
        self._site.timesheet.enter(gpu.number, doing)


def _as_tune(trial: SimulatedTrial) -> Any:
    """Return a trial with the attributes that Tune's schedulers read."""
    name = f"trial-{trial.number:04d}"
    return SimpleNamespace(trial_id=name, config={"folder": name, "overrides": {}})
