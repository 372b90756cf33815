"""Preparation of the data that a study's trials read: before the trials, or in parallel with them.

A variant is the data of all trials with the same `data` and `view` settings: decoded videos and cached
features. Nodes of a cluster on which no trial fits decode in the background. One actor prepares the variants
in turn, and a trial waits for its own variant only. The GPUs therefore do not wait for the last variant.
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

from evclip_ray.formatting import counted
from evclip_ray.progress import Progress
from evclip_ray.training.build import check_downloads
from evclip_ray.training.datamodule import is_prepared, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import prepare_cached
from evclip_ray.training.resources import ResourceRequest, decoding_nodes
from evclip_ray.training.video_plan import VideoPlan
from evclip_ray.tuning.stopper import Stops

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class Variant:
    """Decoded videos, and the experiments that read features of them.

    Attributes:
        plan: Videos to decode.
        experiments: Experiments of this variant; they may differ in the features that they read.
        noted: File that records the folders of the decoded videos.
        rows: File of the record of rows.
        row_keys: Its digests by use.
    """

    plan: VideoPlan
    experiments: tuple[ExperimentConfig, ...]
    noted: Path
    rows: Path | None = None
    row_keys: Mapping[str, str] = dataclasses.field(default_factory=dict)


def make_ready(
    variants: Iterable[Variant], *, cache: Path, request: ResourceRequest, progress: Progress | None = None
) -> None:
    """Decode the videos of all variants, then compute the features that trials read from disk.

    Args:
        variants: Variants to prepare.
        cache: Folder of decoded videos and cached features.
        request: Resources of one trial; nodes on which it does not fit decode.
        progress: Progress of decoding and of the features.

    Raises:
        ConfigError: Weights are not on this machine and cannot be downloaded.
    """
    variants = list(variants)
    # Before the hours of decoding. On a cluster, other machines load the networks.
    if len(_alive()) <= 1:
        undecoded = (variant for variant in variants if not is_prepared(variant.plan, cache))
        check_downloads(experiment for variant in undecoded for experiment in variant.experiments)
    prepared = []
    for variant in variants:
        # Read for each variant: nodes may join while the earlier ones are decoded.
        nodes = decoding_nodes(request, _alive())
        videos = prepare(variant.plan, cache=cache, nodes=nodes, progress=progress)
        videos = dataclasses.replace(videos, rows=variant.rows, row_keys=variant.row_keys)
        videos.save(variant.noted)
        prepared += [(experiment, videos) for experiment in variant.experiments]
    prepare_cached(prepared, gpus=request.gpus, progress=progress)


def may_wait(variants: Collection[Variant], request: ResourceRequest) -> bool:
    """Return whether some variants may be prepared while trials of other variants run."""
    return len(variants) > 1 and bool(decoding_nodes(request, _alive()))


def _alive() -> dict[str, Mapping[str, float]]:
    nodes = ray.nodes() if ray.is_initialized() else []
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


class Preparation(tune.Callback):
    """Background preparation of the variants of a study that are not ready yet.

    Tune calls `on_step_begin` in each of its steps, and the searcher calls `is_ready` for each point. Both
    poll the actor that prepares. A variant that a point waits for comes first. A failure ends the study's
    call through `stops`.

    Args:
        variants: Variants by key.
        cache: Folder of decoded videos and cached features.
        request: Resources of one trial.
        stops: Stopper of the study.
        progress: Progress of decoding and of the features.
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
        self._missing, self._cache, self._request = dict(variants), cache, request
        self._stops, self._progress = stops, progress
        # A dict as an ordered set: the variant that was requested first is prepared first.
        self._requested: dict[str, None] = {}
        self._maker: Any = None
        self._news: Any = None
        self._making: tuple[str, Any] | None = None
        self._next_poll = 0.0

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for its own restore, which is not used here.
        return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Finished shards and features stay on disk. The actor's Ray tasks end with it.
        if self._maker is not None:
            ray.kill(self._maker)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Poll the preparation, also while Tune requests no further point."""
        self._poll()

    def is_ready(self, key: str) -> bool:
        """Return whether trials of a variant may start. An unprepared variant is prepared next."""
        if key in self._missing:
            self._requested[key] = None
            self._poll()
        return key not in self._missing

    def _poll(self) -> None:
        if self._stops.is_over or not self._missing or time.monotonic() < self._next_poll:
            return
        if self._making is None:
            self._start_next()
        elif self._is_made(*self._making):
            # Start the next variant without waiting for the next poll.
            self._making = None
            self._poll()
        else:
            self._next_poll = time.monotonic() + _POLL_SECONDS

    def _start_next(self) -> None:
        if self._maker is None:
            # The actor only starts tasks on the decoding nodes and waits for them, so it takes no CPU. It
            # runs where the driver runs, with the same cache folder and the same view of the files.
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            # Two concurrent calls: one prepares, the other reports progress.
            options = {"num_cpus": 0, "max_concurrency": 2, "scheduling_strategy": here}
            self._maker = ray.remote(_Maker).options(**options).remote()
            self._news = self._maker.news.remote()
        key = next(key for key in (*self._requested, *self._missing) if key in self._missing)
        task = self._maker.make.remote(self._missing[key], self._cache, self._request)
        self._making = (key, task)

    def _is_made(self, key: str, task: Any) -> bool:
        try:
            # timeout=0 polls without waiting: this runs inside Tune's event loop, which must not block.
            done, _ = ray.wait([task, self._news], num_returns=2, timeout=0)
            if self._news in done:
                self._pass_on(*ray.get(self._news))
                self._news = self._maker.news.remote()
            if task not in done:
                return False
            ray.get(task)
        except RayTaskError as error:
            # The original exception of the actor: the user sees the cause instead of Ray's wrapper.
            self._stops.error = error.cause
            return False
        except RayActorError as error:
            self._stops.error = RuntimeError(
                f"the process that prepares videos died ({error}). Run the same command again to continue."
            )
            return False
        self._pass_on(*ray.get(self._maker.news.remote()))
        del self._missing[key]
        log.info("%s not prepared yet", counted(len(self._missing), "variant", "is", "are"))
        return True

    def _pass_on(self, news: dict[str, tuple[int, int]], messages: list[str]) -> None:
        for doing, (done, total) in news.items():
            if self._progress is not None:
                self._progress(doing, done, total)
        for message in messages:
            log.warning("%s", message)


class _Maker:
    """Actor that prepares variants and reports its progress in a second thread."""

    def __init__(self) -> None:
        self._news: dict[str, tuple[int, int]] = {}
        self._warnings = _WarningCollector()
        logging.getLogger("evclip_ray").addHandler(self._warnings)

    def make(self, variant: Variant, cache: Path, request: ResourceRequest) -> None:
        """Prepare one variant."""
        make_ready([variant], cache=cache, request=request, progress=self._note)

    def _note(self, doing: str, done: int, total: int) -> None:
        self._news[doing] = (done, total)

    def news(self) -> tuple[dict[str, tuple[int, int]], list[str]]:
        """Return the progress by kind of work (done, total), and the warnings, since the last call."""
        # Swapped rather than copied and cleared: the other thread may add an entry at any moment.
        self._news, news = {}, self._news
        self._warnings.messages, messages = [], self._warnings.messages
        return news, messages


class _WarningCollector(logging.Handler):
    """Collects warnings for the driver, which logs them where the user sees them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect one warning."""
        self.messages.append(record.getMessage())
