"""The searcher: Ray's OptunaSearch with a memory on disk, honest trial states, and no point run twice."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from evclip_ray.config import ConfigError
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.optuna_storage import EVIDENCE
from evclip_ray.tuning.search_space import SearchSpace, without_seed
from evclip_ray.tuning.stopper import Stops
from evclip_ray.tuning.study_folder import OBJECTIVE, StudyFolder

_FEW = 4
"""Points that are asked for at most while others wait for their videos, where fewer trials run at once."""


@dataclasses.dataclass(frozen=True)
class _Point:
    """A point with its folder. `videos`: the key of those that it reads, None where it can read none."""

    trial: optuna.Trial
    folder: str
    overrides: dict[str, Any]
    videos: str | None


class StudySearch(OptunaSearch):
    """Asks an Optuna study for points and tells it how each trial ended.

    It departs from its base in these ways: a trial's folder goes with its point, so that a point
    interrupted by a kill goes on in the folder that it began in; a point that was run before is run
    with another seed; a trial that the scheduler stopped is told as PRUNED, not as a complete one
    with an early value; a result without a number is told as FAIL instead of staying RUNNING for
    ever; a trial that is to go on later stays RUNNING, as a kill would leave it; a point whose videos
    are not ready is held until they are, and others start before it; and its state is the study's own
    storage, so that Tune's snapshots of the searcher hold nothing.

    `missing`: points to ask for at most. `room`: trials that the machines of this moment have room for.
    `is_ready`: whether the videos of an experiment, by their key, may be read.
    """

    def __init__(
        self,
        space: SearchSpace,
        study: optuna.Study,
        folder: StudyFolder,
        *,
        max_epochs: int,
        stops: Stops,
        room: Callable[[], int],
        missing: float = math.inf,
        is_ready: Callable[[str], bool] = lambda videos: True,
    ) -> None:
        super().__init__(
            space=space.sample, metric=OBJECTIVE, mode="max",
            sampler=study.sampler, storage=study._storage, study_name=study.study_name,
        )  # fmt: skip
        self._search_space, self._folder, self._max_epochs, self._stops = space, folder, max_epochs, stops
        self._room, self._planned = room, 0
        self._unasked, self._is_ready, self._held = missing, is_ready, list[_Point]()
        self._begun = {trial["trial"]: trial["overrides"] for trial in folder.trials()}
        self._elsewhere = [
            t.user_attrs[EVIDENCE]["overrides"] for t in study.trials if EVIDENCE in t.user_attrs
        ]

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Keep the bound here: Tune would hold it to the end, while a node that joins has room for more."""
        self._planned = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next point as `{"folder": ..., "overrides": {...}}`, or that there is no time for one.

        None where as many run as were planned and as the machines of this moment have room for, or where
        the videos of none are ready.
        """
        if self._stops.is_over:
            return str(self.FINISHED)
        running = len(self._ot_trials) - len(self._completed_trials)
        if running >= self._planned and running >= self._room():
            return None
        point = self._next_ready()
        if point is None:
            return None
        self._ot_trials[trial_id] = point.trial
        self._folder.begin(point.folder, point.overrides)
        return {"folder": point.folder, "overrides": point.overrides}

    def _next_ready(self) -> _Point | None:
        """The point asked for first whose videos are ready, if there is one; further ones are held."""
        for point in self._held:
            if point.videos is None or self._is_ready(point.videos):
                self._held.remove(point)
                return point
        # What is asked ahead knows nothing of the results meanwhile.
        while self._unasked > 0 and len(self._held) < max(self._planned, _FEW):
            point = self._ask()
            if point.videos is None or self._is_ready(point.videos):
                return point
            self._held.append(point)
        return None

    def _ask(self) -> _Point:
        trial = self._ot_study.ask()
        drawn = self._search_space.sample(trial)
        name = trial.user_attrs.get("folder", self._next_name())
        overrides = self._begun[name] = self._begun.get(name) or self._with_new_seed(drawn)
        trial.set_user_attr("folder", name)
        self._unasked -= 1
        return _Point(trial, name, overrides, self._videos_of(overrides))

    def _videos_of(self, overrides: dict[str, Any]) -> str | None:
        try:
            return videos_key(self._search_space.experiment(overrides))
        except ConfigError:
            # The trial fails, and says why.
            return None

    def _next_name(self) -> str:
        last = max((int(name.removeprefix("trial-")) for name in self._begun), default=-1)
        return f"trial-{last + 1:04d}"

    def _with_new_seed(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """The point with the first seed, from its own on, that it has not been run with."""
        seed_of, point = self._search_space.seed_of, without_seed(drawn)
        known = [*self._begun.values(), *self._elsewhere]
        used = {seed_of(other) for other in known if without_seed(other) == point}
        first = seed_of(drawn)
        seed = next(seed for seed in itertools.count(first) if seed not in used)
        return drawn if seed == first else {**drawn, "seed": seed}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass an epoch's value on, by epoch: a restarted trial counts Tune's iterations anew."""
        trial = self._ot_trials[trial_id]
        if math.isfinite(result[OBJECTIVE]):
            trial.report(result[OBJECTIVE], result["epoch"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell Optuna how the trial ended."""
        if trial_id in self._completed_trials or trial_id not in self._ot_trials:
            return
        self._completed_trials.add(trial_id)
        trial = self._ot_trials[trial_id]
        last = result or {}
        value = last.get(OBJECTIVE)
        if self._stops.is_paused(trial_id, last) and not error:
            return
        if error or value is None or not math.isfinite(value):
            self._ot_study.tell(trial, state=TrialState.FAIL)
        elif last["epoch"] < self._max_epochs and not last.get("diverged"):
            self._ot_study.tell(trial, state=TrialState.PRUNED)
        else:
            self._ot_study.tell(trial, value)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study's storage is the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
