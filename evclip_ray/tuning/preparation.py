"""What the trials of a study read from disk, made ready: before them, or a part at a time beside them.

A variant is what trials of the same `data` and `view` settings read: decoded videos, and what frozen
networks say of them. Where a cluster has nodes on which no trial has a place, these decode, and the GPUs
need not wait until the last variant is ready: an actor of its own makes one after another, and a point
waits for its variant alone.
"""

import dataclasses
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import ray
from ray import tune
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evclip_ray.training.datamodule import Progress, VideoPlan, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import prepare_cached
from evclip_ray.training.resources import ResourceRequest, decoding_nodes
from evclip_ray.tuning.stopper import Stops

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Variant:
    """How videos are decoded, the experiments that read other features of them, and where that is noted."""

    plan: VideoPlan
    experiments: tuple[ExperimentConfig, ...]
    noted: Path


def make_ready(
    variants: Iterable[Variant], *, cache: Path, request: ResourceRequest, progress: Progress | None = None
) -> None:
    """Decode the videos, once, then make the features that trials, each of a `request`, read from disk."""
    made = []
    for variant in variants:
        nodes = decoding_nodes(request, _alive())
        videos = prepare(variant.plan, cache=cache, nodes=nodes, progress=progress)
        videos.save(variant.noted)
        made += [(experiment, videos) for experiment in variant.experiments]
    prepare_cached(made, gpus=request.gpus, progress=progress)


def may_wait(variants: Collection[Variant], request: ResourceRequest) -> bool:
    """Return whether some of `variants` may be prepared while trials that read others run."""
    return len(variants) > 1 and bool(decoding_nodes(request, _alive()))


def _alive() -> dict[str, Mapping[str, float]]:
    nodes = ray.nodes() if ray.is_initialized() else []
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


class Preparation(tune.Callback):
    """The variants of a study that are not ready yet (key -> variant), made so beside its trials.

    It is looked at when Tune asks for a point, and at each of its steps. A variant that a point waits for
    comes before the others. What cannot be made ends the study's call, by `stops`.
    """

    def __init__(
        self,
        variants: Mapping[str, Variant],
        *,
        cache: Path,
        request: ResourceRequest,
        stops: Stops,
        progress: Progress | None = None,
    ) -> None:
        self._left, self._cache, self._request = dict(variants), cache, request
        self._stops, self._progress = stops, progress
        self._wanted: dict[str, None] = {}
        self._maker: Any = None
        self._news: Any = None
        self._making: tuple[str, Any] | None = None
        self._next_look = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # As the recorder's: Tune pickles its callbacks for a restore that is not used here.
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # What it was making is kept as far as it got; its tasks end with it.
        if self._maker is not None:
            ray.kill(self._maker)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look, also while no further point is asked for."""
        self._look()

    def is_ready(self, key: str) -> bool:
        """Whether trials of a variant may start; one that is not comes next."""
        if key in self._left:
            self._wanted[key] = None
            self._look()
        return key not in self._left

    def _look(self) -> None:
        if self._stops.is_over or not self._left or time.monotonic() < self._next_look:
            return
        if self._making is None:
            self._start_next()
        elif self._is_made(*self._making):
            # The next one starts at once.
            self._making = None
            self._look()
        else:
            self._next_look = time.monotonic() + _LOOK_SECONDS

    def _start_next(self) -> None:
        if self._maker is None:
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            # Two calls at once: one that makes, one that tells.
            options = {"num_cpus": 0, "max_concurrency": 2, "scheduling_strategy": here}
            self._maker = ray.remote(_Maker).options(**options).remote()
            self._news = self._maker.news.remote()
        key = next(key for key in (*self._wanted, *self._left) if key in self._left)
        made = self._maker.make.remote(self._left[key], self._cache, self._request)
        self._making = (key, made)

    def _is_made(self, key: str, made: Any) -> bool:
        try:
            done, _ = ray.wait([made, self._news], num_returns=2, timeout=0)
            if self._news in done:
                self._pass_on(*ray.get(self._news))
                self._news = self._maker.news.remote()
            if made not in done:
                return False
            ray.get(made)
        except RayTaskError as error:
            self._stops.error = error.cause
            return False
        except RayActorError as error:
            self._stops.error = RuntimeError(
                f"the process that prepares videos died ({error}); the same command goes on where it was"
            )
            return False
        self._pass_on(*ray.get(self._maker.news.remote()))
        del self._left[key]
        log.info("%d variants of the videos are still to be made ready", len(self._left))
        return True

    def _pass_on(self, news: dict[str, tuple[int, int]], said: list[str]) -> None:
        for doing, (done, total) in news.items():
            if self._progress is not None:
                self._progress(doing, done, total)
        for message in said:
            log.warning("%s", message)


class _Maker:
    """An actor that makes variants ready, and tells meanwhile how far it is."""

    def __init__(self) -> None:
        self._news: dict[str, tuple[int, int]] = {}
        self._said = _Said()
        logging.getLogger("evclip_ray").addHandler(self._said)

    def make(self, variant: Variant, cache: Path, request: ResourceRequest) -> None:
        """Make a variant ready."""
        make_ready([variant], cache=cache, request=request, progress=self._note)

    def _note(self, doing: str, done: int, total: int) -> None:
        self._news[doing] = (done, total)

    def news(self) -> tuple[dict[str, tuple[int, int]], list[str]]:
        """What is being done -> videos done and in all, and the warnings since the last call."""
        self._news, news = {}, self._news
        self._said.messages, said = [], self._said.messages
        return news, said


class _Said(logging.Handler):
    """Keeps warnings for the driver, whose user reads them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.messages.append(record.getMessage())
