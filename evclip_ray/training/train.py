"""Training of one experiment, from its videos to its checkpoints."""

import contextlib
import contextvars
import dataclasses
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evclip_ray.artifacts import ArtifactError, read_history
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.formatting import shell
from evclip_ray.progress import Progress, report
from evclip_ray.records import EpochMetrics
from evclip_ray.training.build import check_downloads
from evclip_ray.training.checkpoint import HISTORY, ROWS, latest_checkpoint, latest_readable, read_record
from evclip_ray.training.class_text_check import check_class_texts
from evclip_ray.training.datamodule import Videos, is_prepared, prepare
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import prepare_cached
from evclip_ray.training.loop import Report, Run
from evclip_ray.training.ray_trainer import train_distributed
from evclip_ray.training.reproduction import (
    COMPUTE,
    compared_settings,
    differences,
    refuse_other_run,
    threads_of,
)
from evclip_ray.training.resources import GIB, ResourceRequest, concurrent_trials
from evclip_ray.training.video_plan import VideoPlan, plan_videos, record_rows
from evclip_ray.training.zero_shot import videos_key

log = logging.getLogger(__name__)

_MAX_FAILURES = 2
_POLL_SECONDS = 0.5
_EPOCHS = "epochs"


def train_experiment(
    experiment: ExperimentConfig,
    *,
    folder: Path,
    cache: Path,
    machines: Sequence[Mapping[str, float]],
    on_cluster: bool,
    workers: int,
    min_workers: int | None,
    cpus: float | None,
    gpus: float | None,
    decoding: Progress | None,
    on_epoch: Report,
    splits_of: Path | None = None,
    repeats: Path | None = None,
) -> EpochMetrics:
    """Train one experiment, or resume it, and return the metrics of the last epoch.

    A run with one worker trains in this process, unless `on_cluster` is set.

    Args:
        experiment: Settings of the run.
        folder: Folder of the run; checkpoints in it are resumed.
        cache: Folder of decoded videos and cached features.
        machines: Ray resources of each machine.
        on_cluster: Whether `machines` belong to a running cluster, which then places the worker.
        workers: Training processes.
        min_workers: Workers with which training continues after machines are lost; None waits for all.
        cpus: CPUs of one worker. None means 1 for each of several workers. One worker then computes with as
            many threads as the run that it repeats, or else with all CPUs of this machine.
        gpus: GPUs of one worker; None means 1 if any machine has a GPU.
        decoding: Progress of decoding and of cached features.
        on_epoch: Called with the metrics of each epoch.
        splits_of: Folder of an earlier run or checkpoint. Its videos keep their splits. If it has no record
            of rows, the splits are drawn as by the version that wrote it.
        repeats: Checkpoint of an earlier run whose settings this one has. What else differs is logged.

    Raises:
        ValueError: The workers do not fit on the machines, the folder belongs to another experiment, or its
            videos have changed.
    """
    if not experiment.method.trains:
        raise ValueError(
            f"method {experiment.method.name!r} has nothing to train; `evclip-ray evaluate` gives its numbers"
        )
    folder = folder.expanduser().resolve()
    experiment = _with_begun_view(experiment, [folder, *([splits_of] if splits_of else [])])
    if experiment.enlarged_frames:
        log.warning("%s", experiment.enlarged_frames)
    has_gpus = any(node.get("GPU", 0) > 0 for node in machines)
    request = ResourceRequest(
        cpus or 1.0, float(has_gpus) if gpus is None else gpus, 1.5 * GIB, workers, min_workers
    )
    # Only the check is needed: it raises before hours of decoding if the workers can never be placed.
    concurrent_trials(request, machines)
    _refuse_other_run(folder, experiment)
    earlier = None if repeats is None else read_record(repeats)
    plan, record = _plan_rows(experiment, folder, cache=cache, splits_of=splits_of, progress=decoding)
    if plan.selection_warning:
        log.warning("%s", plan.selection_warning)
    check_class_texts([experiment], plan.classes)
    if not on_cluster and not is_prepared(plan, cache):
        # Before the hours of decoding. On a cluster, other machines load the networks.
        check_downloads([experiment])
    videos = prepare(plan, cache=cache, progress=decoding)
    # Written after the first check that videos exist, and before the first epoch.
    record.write(folder / ROWS)
    videos = dataclasses.replace(videos, rows=folder / ROWS, row_keys=record.keys())
    prepare_cached([(experiment, videos)], gpus=request.gpus, progress=decoding)
    if workers > 1 or on_cluster:
        if earlier is not None:
            _report_differences(earlier, {"rows": record.keys(), COMPUTE: {"workers": workers}}, experiment)
        return _train_in_workers(experiment, videos, folder=folder, request=request, on_epoch=on_epoch)
    torch.set_num_threads(_num_threads(cpus, earlier, machines))
    run = Run.start(experiment, videos, folder=folder)
    if earlier is not None:
        _report_differences(earlier, run.record(), experiment)
    return run.fit(_counted(on_epoch, experiment, folder))


def _refuse_other_run(folder: Path, experiment: ExperimentConfig) -> None:
    """Check that a run that was begun has these settings, before its videos are decoded.

    Raises:
        ArtifactError: It has others.
    """
    checkpoint = latest_readable(folder / "last")
    if checkpoint is not None:
        begun = read_record(checkpoint)
        by_content = bool(begun.get("rows"))
        refuse_other_run(folder, begun, experiment.model_dump(mode="json"), by_content=by_content)


def _num_threads(
    cpus: float | None, earlier: Mapping[str, Any] | None, machines: Sequence[Mapping[str, float]]
) -> int:
    if cpus is not None:
        return max(1, int(cpus))
    # Without an earlier run, a local run may use all CPUs of the machine: no other trial shares it.
    return threads_of(earlier) if earlier else max(1, int(machines[0].get("CPU", 1)))


def _report_differences(
    earlier: Mapping[str, Any], now: Mapping[str, Any], experiment: ExperimentConfig
) -> None:
    """Log in what a run differs from the one that it repeats, one line each. Chosen settings are none."""
    begun, given = (
        compared_settings(each, by_content=True)
        for each in (earlier["experiment"], experiment.model_dump(mode="json"))
    )
    if begun == given:
        for line in differences(earlier, now):
            log.warning("the trial was run under other conditions, so that the numbers may differ: %s", line)


def _counted(on_epoch: Report, experiment: ExperimentConfig, folder: Path) -> Report:
    """Return a function that reports each epoch as progress too, beginning with those of an earlier call."""
    total = experiment.optim.epochs

    def count(metrics: EpochMetrics) -> None:
        on_epoch(metrics)
        report(_EPOCHS, total if metrics.diverged else metrics.epoch, total)

    report(_EPOCHS, len(_history(folder)), total)
    return count


def _with_begun_view(experiment: ExperimentConfig, folders: Sequence[Path]) -> ExperimentConfig:
    """Return the experiment with the view of an earlier run if only the default of the view differs.

    Versions up to 0.1 stored frames of 256 x 256 pixels by default.

    Args:
        experiment: Settings of the run.
        folders: Folders of the run and of the run that it forks. The first with a checkpoint counts.
    """
    checkpoints = (latest_readable(folder.expanduser() / "last") for folder in folders)
    checkpoint = next((path for path in checkpoints if path is not None), None)
    if checkpoint is None:
        return experiment
    # The preset `published` of those versions had no selection, and the validation split selected.
    if experiment.data.selection == "last_epoch" and "selection" not in read_record(checkpoint):
        data = experiment.data.model_copy(update={"selection": None})
        experiment = experiment.model_copy(update={"data": data})
    if experiment.view.fit != "short_side":
        return experiment
    view = experiment.view.model_dump(exclude={"short_side", "fit"})
    earlier = experiment.model_copy(update={"view": ViewConfig.load({**view, "fit": "crop"})})
    if ExperimentConfig.load(read_record(checkpoint)["experiment"]) != earlier:
        return experiment
    log.warning("%s: began with view.fit=crop, the earlier default, and goes on with it", checkpoint)
    return earlier


def _plan_rows(
    experiment: ExperimentConfig,
    folder: Path,
    *,
    cache: Path,
    splits_of: Path | None,
    progress: Progress | None,
) -> tuple[VideoPlan, RowRecord]:
    """Return the rows of each split and their record. Videos that the run knows keep their split.

    Raises:
        ArtifactError: The videos of the run have changed.
    """
    recorded = _read_rows(folder)
    known = recorded or (splits_of and _read_rows(splits_of)) or None
    # A run of an earlier version has checkpoints and no record.
    begun = latest_checkpoint(folder / "last") is not None

    def plan_with(known: RowRecord | None) -> VideoPlan:
        legacy = known is None and (begun or splits_of is not None)
        return plan_videos(experiment, cache=cache, recorded=known, legacy=legacy, progress=progress)

    plan = plan_with(known)
    if known is not None and (renamed := known.with_paths_of(plan.manifest)) is not known:
        # The same files under other paths keep their split.
        plan = plan_with(renamed)
    # Moved files are read: a copy may have the size and the time of another file.
    is_moved = known is not None and known.root != plan.manifest.root
    record = record_rows(plan, known=None if is_moved else known, progress=progress)
    if recorded is not None and (difference := recorded.difference(record)):
        raise ArtifactError(
            f"{folder}: its videos are not those that it began with ({difference}). Restore the list, or add "
            f"--fork NEW_OUT to {shell('--out', folder)}: this trains a new run on the new videos and moves "
            "no old video to another split."
        )
    if recorded is not None and is_moved:
        log.warning(
            "%s: its videos have moved from %s to %s; they are the same by content, and the run goes on",
            folder,
            recorded.source,
            record.source,
        )
    return plan, record


def _read_rows(folder: Path) -> RowRecord | None:
    return RowRecord.read(folder / ROWS) if (folder / ROWS).is_file() else None


def _train_in_workers(
    experiment: ExperimentConfig, videos: Videos, *, folder: Path, request: ResourceRequest, on_epoch: Report
) -> EpochMetrics:
    videos_file = folder / f"videos-{videos_key(experiment)}.json"
    videos.save(videos_file)
    with _following(folder, _counted(on_epoch, experiment, folder)):
        train_distributed(
            experiment,
            videos_file,
            folder=folder,
            zero_shot=folder / "zero_shot.json",
            request=request,
            hparams={},
            max_failures=_MAX_FAILURES,
        )
    return _history(folder)[-1]


@contextlib.contextmanager
def _following(folder: Path, on_epoch: Report) -> Iterator[None]:
    """Report each epoch of a run that other processes write, as soon as it is in the history file."""
    num_reported, ended = len(_history(folder)), threading.Event()

    def follow() -> None:
        nonlocal num_reported
        is_last = False
        while not is_last:
            # The history is read once more after the end, because the last epochs may be written after the
            # last poll.
            is_last = ended.wait(_POLL_SECONDS)
            for metrics in _history(folder)[num_reported:]:
                on_epoch(metrics)
                num_reported += 1

    # `train_distributed` blocks until the group ends, so the file is polled from a thread.
    # In a copy of the context, which has the receiver of the progress.
    follower = threading.Thread(target=contextvars.copy_context().run, args=(follow,))
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()


def _history(folder: Path) -> list[EpochMetrics]:
    try:
        return [EpochMetrics.from_record(record) for record in read_history(folder / HISTORY)]
    # The run writes the file again, from its checkpoint.
    except ArtifactError:
        return []
