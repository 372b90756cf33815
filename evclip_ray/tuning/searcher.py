"""The search algorithm of a study: a Tune searcher over an Optuna study whose record is on disk."""

import contextlib
import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from evclip_ray.config import ConfigError
from evclip_ray.objective import OBJECTIVE
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.journal import OVERRIDES
from evclip_ray.tuning.optuna_storage import EVIDENCE, make_sampler, own_trials
from evclip_ray.tuning.search_space import SearchSpace, without_seed
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.trial_folder import read_trial

_INFORMATIVE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
"""States of trials that a sampler reads. It avoids the points of running trials."""
_MIN_DRAWN_AHEAD = 4
"""Points that may be drawn ahead while earlier ones wait for their videos, if fewer trials run at once."""


@dataclasses.dataclass(frozen=True)
class _Point:
    """A drawn point and its folder. `videos`: key of the videos that it reads, None for an invalid point."""

    trial: optuna.Trial
    folder: str
    overrides: dict[str, Any]
    videos: str | None


class StudySearch(Searcher):
    """Searcher that draws points from an Optuna study and records how each trial ended.

    Life cycle, as Tune calls it in the process of the driver:

    1. `set_max_concurrency`, before the first trial, with `TuneConfig.max_concurrent_trials`.
    2. `suggest`, about once per step of Tune's event loop while trials are to be created, with a new trial id
       each time. A mapping starts a trial, None means "request again at the next step", FINISHED ends the
       requests of this `Tuner.fit`.
    3. `on_trial_result`, once per epoch of a running trial, except for its last one.
    4. `on_trial_complete`, once per trial when it ended, was stopped or failed; Tune may repeat it.
    5. `save`, at each of Tune's snapshots; `restore` only by `Tuner.restore`, which is not used here. The
       journal of the Optuna study is the whole state.

    States in the Optuna study:

    - COMPLETE: the trial had its last epoch, or diverged after a finite value.
    - PRUNED: the scheduler stopped the trial.
    - FAIL: the trial raised an error or has no finite value.
    - RUNNING: the trial runs or was interrupted. At the end of a call, and before the next one after a kill,
      `optuna_storage.recover` sets it to WAITING. It is then drawn again and continues in the folder that it
      began in, which its attribute `folder` names.

    The value of a trial is its objective. Its intermediate values are the validation top-1 of each epoch.

    A new point follows from the seed of the study, the number of its trial and, for TPE, the earlier trials
    in the order of their numbers. It does not depend on how often the study was interrupted. Each point is
    drawn by a new sampler in a copy of the study, and is put into the queue of the journal.

    With a balanced choice, a new point has the value with the fewest trials so far, the first one of several.
    A sampler draws its other settings from the trials of this value alone: with all trials, TPE would
    learn little about the learning rate of a method that is never among the best. Failed trials count, so
    that a value that always fails does not get all trials.

    A point that was run before, here or in an earlier study, is run with the next unused seed. A point whose
    videos are not ready is held until they are; points drawn after it may start first.

    Args:
        space: The search space.
        study: The Optuna study.
        folder: The study's folder, where the points of trials are written.
        max_epochs: Epochs of a trial that is not stopped.
        stops: Ends the requests when the time is up, on Ctrl-C or after an error.
        num_slots: Returns the number of trials that fit on the machines that are up now. A node that joins
            can raise the number of trials above the bound of `set_max_concurrency`.
        trials: Trials of the whole study, `inf` without a limit. TPE draws a part of them at random.
        missing: Number of points to draw at most.
        is_ready: Returns whether the videos with this key are prepared.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: optuna.Study,
        folder: StudyFolder,
        *,
        max_epochs: int,
        stops: Stops,
        num_slots: Callable[[], int],
        trials: float = math.inf,
        missing: float = math.inf,
        is_ready: Callable[[str], bool] = lambda videos: True,
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._space, self._study, self._folder = space, study, folder
        self._max_epochs, self._stops, self._num_slots = max_epochs, stops, num_slots
        self._trials, self._missing, self._is_ready = trials, missing, is_ready
        self._max_concurrent = 0
        self._is_torn = False
        self._running: dict[str, optuna.Trial] = {}
        self._held: list[_Point] = []
        self._begun = {trial.trial: trial.overrides for trial in folder.trials()}
        # Points of warm-start evidence count as used too: the new study then adds a seed instead of a
        # repetition.
        self._run_elsewhere = [
            trial.user_attrs[EVIDENCE]["overrides"] for trial in study.trials if EVIDENCE in trial.user_attrs
        ]

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Store the bound and return True, so that Tune does not enforce it.

        Tune would keep the first bound to the end, while a node that joins has slots for more trials.
        """
        self._max_concurrent = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the next point as `{"folder": ..., "overrides": {...}}`.

        Returns:
            FINISHED if no trial may start any more. None if as many trials run as were planned and as have a
            slot now, or if no point has its videos ready.
        """
        with self._writing_journal():
            return self._suggest(trial_id)
        # The journal cannot be written: a fault of the machine ends the study.
        return str(self.FINISHED)

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._stops.is_over:
            return str(self.FINISHED)
        # None makes Tune ask again at its next step, when a slot may be free.
        if len(self._running) >= max(self._max_concurrent, self._num_slots()):
            return None
        point = self._next_ready()
        if point is None:
            return None
        # The point is written before Tune starts the process, so that a kill leaves a folder that can be
        # continued.
        self._running[trial_id] = point.trial
        trial = point.trial
        self._folder.begin(point.folder, point.overrides, params=trial.params, attributes=trial.user_attrs)
        return {"folder": point.folder, "overrides": point.overrides}

    def _next_ready(self) -> _Point | None:
        """Return the earliest point with ready videos; draw and hold points until there is one."""
        for point in self._held:
            if point.videos is None or self._is_ready(point.videos):
                self._held.remove(point)
                return point
        # Few are drawn ahead: the sampler learns nothing between them.
        while self._missing > 0 and len(self._held) < max(self._max_concurrent, _MIN_DRAWN_AHEAD):
            point = self._draw()
            if point.videos is None or self._is_ready(point.videos):
                return point
            self._held.append(point)
        return None

    def _draw(self) -> _Point:
        # Points in the queue come first: interrupted ones, and those of a warm start.
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._enqueue_new()
        trial = self._study.ask()
        drawn = self._space.sample(trial)
        # An interrupted point that was enqueued again has its folder already.
        name = trial.user_attrs.get("folder", _name(self._next_number()))
        # A continued trial keeps the overrides of its folder, including the seed that it was given at its
        # start.
        if name not in self._begun:
            self._begun[name] = self._with_new_seed(name, drawn)
        overrides = self._begun[name]
        # Stored in the journal: `recover` finds the folder of an interrupted trial by it.
        trial.set_user_attr("folder", name)
        # The journal and the folder each have the whole point: either can be written again from the other.
        trial.set_user_attr(OVERRIDES, overrides)
        self._missing -= 1
        return _Point(trial, name, overrides, self._videos_of(overrides))

    def _enqueue_new(self) -> None:
        """Draw the point of the next trial and put it into the queue.

        It is in the journal at once: after a kill it is still in the queue.
        """
        settings, choice = self._space.study, self._space.balanced
        # A hash of the two numbers: seed 0 of trial 1 is unrelated to seed 1 of trial 0.
        seed = int(np.random.SeedSequence((settings.seed, self._next_number())).generate_state(1)[0])
        trials, earlier = self._trials, self._in_order()
        if choice is not None:
            drawn = [trial.params.get(choice.name) for trial in own_trials(self._study)]
            value = min(choice.values, key=drawn.count)
            trials /= len(choice.values)
            earlier = [trial for trial in earlier if trial.params.get(choice.name) == value]
        # In a copy: the numbers of the journal also count interrupted trials, and TPE depends on the order.
        copied = optuna.create_study(
            direction="maximize", sampler=make_sampler(settings.sampler, seed=seed, trials=trials)
        )
        copied.add_trials(earlier)
        if choice is not None:
            copied.enqueue_trial({choice.name: value})
        trial = copied.ask()
        self._space.sample(trial)
        self._study.enqueue_trial(trial.params)

    def _in_order(self) -> list[FrozenTrial]:
        """Return the trials that a sampler reads: evidence, then own trials by their numbers."""
        read = self._study.get_trials(deepcopy=False, states=_INFORMATIVE)
        evidence = [trial for trial in read if EVIDENCE in trial.user_attrs]
        own = [_by_objective(trial) for trial in read if "folder" in trial.user_attrs]
        return [*evidence, *sorted(own, key=lambda trial: _number(trial.user_attrs["folder"]))]

    def _videos_of(self, overrides: dict[str, Any]) -> str | None:
        try:
            return videos_key(self._space.experiment(overrides))
        except ConfigError:
            # The trial starts nevertheless, fails and writes the reason to its folder.
            return None

    def _next_number(self) -> int:
        # One more than the largest number, not the count: folders may have been removed by the user.
        trials = self._study.get_trials(deepcopy=False)
        recorded = {trial.user_attrs["folder"] for trial in trials if "folder" in trial.user_attrs}
        return 1 + max(map(_number, recorded | self._begun.keys()), default=-1)

    def _with_new_seed(self, name: str, drawn: dict[str, Any]) -> dict[str, Any]:
        """Return the point with the first seed, counted from its own, that it was not run with."""
        seed_of, point = self._space.seed_of, without_seed(drawn)
        # A point that was held may be drawn again after later ones have begun, which must not change its
        # seed.
        before = [overrides for other, overrides in self._begun.items() if _number(other) < _number(name)]
        earlier = [*before, *self._run_elsewhere]
        used = {seed_of(other) for other in earlier if without_seed(other) == point}
        first = seed_of(drawn)
        seed = next(seed for seed in itertools.count(first) if seed not in used)
        return drawn if seed == first else {**drawn, "seed": seed}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an epoch's validation top-1 to Optuna."""
        if not self._is_torn:
            with self._writing_journal():
                self._report(self._running[trial_id], [result])

    def _report(self, trial: optuna.Trial, epochs: Iterable[Mapping[str, Any]]) -> None:
        """Report the validation top-1 of epochs. Epochs that the journal has are skipped."""
        reported = set(self._study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        for metrics in epochs:
            # The step is our epoch: Tune's count of iterations begins again in a trial that was resumed.
            epoch, top1 = metrics.get("epoch"), metrics.get("val_top1")
            # A trial that diverged has no value in its last epoch.
            if epoch and epoch not in reported and top1 is not None and math.isfinite(top1):
                trial.report(top1, epoch)
                reported.add(epoch)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record in the Optuna study how the trial ended; see the class for the states."""
        trial = self._running.pop(trial_id, None)
        last = result or {}
        # Tune may call twice for one trial. A paused trial stays RUNNING in the journal, see the class.
        if trial is None or self._is_torn or self._stops.is_paused(trial_id, last):
            return
        with self._writing_journal():
            self._record_end(trial, last, error=error)

    def _record_end(self, trial: optuna.Trial, last: Mapping[str, Any], *, error: bool) -> None:
        # Tune reports the last epoch with the end alone, and a kill can lose the report of an earlier one.
        record = read_trial(self._folder.trial(trial.user_attrs["folder"]), self._folder.notes)
        self._report(trial, [*(epoch.values for epoch in (record.history if record else ())), last])
        value = last.get(OBJECTIVE)
        # Optuna rejects NaN as the value of a complete trial. TPE ignores failed trials.
        if error or value is None or not math.isfinite(value):
            self._study.tell(trial, state=TrialState.FAIL)
        # TPE learns from PRUNED trials as well, ranked below complete ones.
        elif last["epoch"] < self._max_epochs and not last.get("diverged"):
            # Optuna gives a pruned trial the value of its last epoch.
            trial.set_user_attr(OBJECTIVE, value)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, value)

    @contextlib.contextmanager
    def _writing_journal(self) -> Iterator[None]:
        """Run a block that writes to the journal. A fault of the machine ends the study.

        A trial whose end could not be written stays RUNNING, as after a kill. The next call asks for its
        result, which its folder has.
        """
        is_written = False
        with self._stops.pausing():
            yield
            is_written = True
        # A full disk may have cut the last line. A further line would be appended to this one.
        self._is_torn = not is_written

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the journal of the Optuna study is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing, as `save` writes nothing."""


def _name(number: int) -> str:
    """Return the folder of the trial with this number."""
    return f"trial-{number:04d}"


def _number(name: str) -> int:
    return int(name.removeprefix("trial-"))


def _by_objective(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial as TPE must read it: it ranks pruned trials by their last intermediate value.

    In the journal this is the top-1 of the last epoch, which may be below the objective of the trial. Pruned
    trials of earlier versions have the objective there and no attribute.
    """
    if trial.state is not TrialState.PRUNED or OBJECTIVE not in trial.user_attrs or trial.last_step is None:
        return trial
    ranked = copy.copy(trial)
    ranked.intermediate_values = {trial.last_step: trial.user_attrs[OBJECTIVE]}
    return ranked
