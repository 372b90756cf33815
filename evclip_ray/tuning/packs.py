"""Packs of trials: processes that each hold a device and the frozen networks, and train several trials.

To Tune a trial is a trial as ever: it reports epochs, is stopped, fails and is restarted by itself. Its
own process only passes that on (`packed_trial`) and holds no device; the training is done by a `PackActor`
that up to `study.pack` trials share. This was chosen over trials inside one Tune trial, which Tune and
Optuna could not tell apart, and over processes that send frames to one another, which would copy them.

A call that a dead pack leaves unanswered is made again by Ray to the pack that it starts in its place:
the trial joins anew, and its run goes on after its last epoch.
"""

import contextlib
import uuid
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import ray

from evclip_ray.config import ConfigError
from evclip_ray.training.placement import Need
from evclip_ray.tuning.packed_trial import PackActor
from evclip_ray.tuning.search_space import SearchSpace


class Packer:
    """Finds a place for each trial in the packs called `names`, which have `size` places each."""

    def __init__(self, names: Sequence[str], size: int) -> None:
        self._members: dict[str, dict[str, Hashable]] = {name: {} for name in names}
        self._size = size

    def place(self, trial: str, kind: Hashable) -> str:
        """The pack that a trial of a `kind` joins.

        Of those with a place left, it has the fewest trials of other kinds, whose frames cannot go
        through a network with this one's, and then the fewest trials.
        """

        def burden(name: str) -> tuple[bool, int, int]:
            kinds = self._members[name].values()
            return len(kinds) >= self._size, sum(other != kind for other in kinds), len(kinds)

        best = min(self._members, key=burden)
        self._members[best][trial] = kind
        return best

    def free(self, trial: str) -> None:
        """Give the place of a trial back."""
        for members in self._members.values():
            members.pop(trial, None)


def kind_of(space: SearchSpace, overrides: dict[str, Any]) -> Hashable:
    """What trials must have in common for their frames to go through the frozen networks together."""
    try:
        experiment = space.experiment(overrides)
    except ConfigError:
        # The trial that drew it fails, and says why.
        return None
    encoder = getattr(experiment.method, "video_encoder", None)
    return experiment.backbone.model_dump_json(), experiment.precision, encoder and encoder.model_dump_json()


@contextlib.contextmanager
def start_packs(count: int, *, size: int, need: Need, max_failures: int) -> Iterator[Packer]:
    """Start `count` packs for `size` trials each, by names that trials find them by, and end them after.

    `need`: of one pack. A pack that dies is started again; a call is made again `max_failures` times.
    """
    server = ray.remote(PackActor)
    names = [f"pack-{uuid.uuid4().hex}" for _ in range(count)]
    servers = [
        server.options(
            name=name, num_cpus=need.cpus, num_gpus=need.gpus, memory=need.memory,
            # Every trial waits in a call of its own, while others join and leave.
            max_concurrency=2 * size + 2, max_restarts=-1, max_task_retries=max_failures,
        ).remote(threads=max(1, int(need.cpus)))
        for name in names
    ]  # fmt: skip
    try:
        yield Packer(names, size)
    finally:
        for started in servers:
            ray.kill(started)
