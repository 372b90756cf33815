"""A pack of trials and one trial of it, as the processes of both see them. Importing this loads no torch.

Ray imports the class of an actor in every process that calls one: a trial that only passes on what its
pack says would otherwise take some 700 MB.
"""

from typing import Any

import ray
from ray import tune

Config = dict[str, Any]


class PackActor:
    """The process of a pack; see `PackServer`."""

    def __init__(self, *, threads: int) -> None:
        from evclip_ray.tuning.pack_server import PackServer

        self._server = PackServer(threads=threads)

    def epoch(self, config: Config) -> dict[str, Any] | None:
        """Train a trial to the end of its next epoch and return what to report; None: no more."""
        return self._server.epoch(config)

    def leave(self, name: str) -> None:
        """Drop a trial."""
        self._server.leave(name)


def run_packed_trial(config: Config) -> None:
    """Tune's trainable: train the point in `config` in the pack that it names, reporting every epoch.

    Raises:
        ray.exceptions.ActorDiedError: the pack died more often than it may.
    """
    pack = ray.get_actor(config["pack"])
    try:
        while (metrics := ray.get(pack.epoch.remote(config))) is not None:
            # Where Tune stops the trial, this does not return.
            tune.report(metrics)
            if "error" in metrics:
                return
    finally:
        pack.leave.remote(config["folder"])
