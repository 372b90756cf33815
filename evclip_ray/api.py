"""Functions of the public API. The commands of the same names call them and print what they return.

Imports are inside the functions: `import evclip_ray` and `evclip-ray --help` load neither torch nor Ray.
"""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evclip_ray.artifacts import cache_folder as cache_folder
from evclip_ray.formatting import counted
from evclip_ray.progress import Progress, reporting_to, stage

if TYPE_CHECKING:
    import pandas as pd

    from evclip_ray.deploy.predictions import FailedVideo, Prediction
    from evclip_ray.evaluation.evaluate import EvaluationResult
    from evclip_ray.evaluation.seed_means import CheckpointMean
    from evclip_ray.metrics.intervals import IntervalKind
    from evclip_ray.records import EpochMetrics
    from evclip_ray.results import Study
    from evclip_ray.training.experiment import ExperimentConfig
    from evclip_ray.training.video_plan import VideoPlan
    from evclip_ray.tuning.callbacks import OnEvent
    from evclip_ray.tuning.plan import StudyPlan
    from evclip_ray.tuning.search_space import SearchSpace
    from evclip_ray.tuning.tuner import Outcome, StudyRun

log = logging.getLogger(__name__)


def tune(
    space: "str | Path | SearchSpace",
    *,
    data: str | Path | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
    trials: int | None = None,
    time_budget: float | None = None,
    warm_start: Sequence[str | Path] = (),
    fork: str | Path | None = None,
    retry_failed: bool = False,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    study: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    address: str | None = None,
    progress: Progress | None = None,
    on_trial: "OnEvent | None" = None,
) -> "Study":
    """Search a space and return the study. The same call again resumes it.

    Example::

        study = evclip_ray.tune("quickstart", trials=8, out="studies/first")
        study.trials[["trial", "val_top1", "zero_shot_top1"]].head()

    Ctrl-C and the end of the time budget end the call early; finished trials stay on disk. Then
    `study.outcome` has `interrupted` or `out_of_time` set and counts the `missing` trials.

    Args:
        space: Search space, the path of its YAML file, or the name of a shipped one (`"quickstart"`).
        data: Manifest (CSV or Parquet), or a folder with one folder of videos per class.
        root: Folder or URI that the paths in the manifest are relative to.
        out: Folder of the study; by default `studies/NAME`.
        trials: Number of trials, including those of earlier calls. Default: 16, without limit if there is a
            time budget.
        time_budget: Seconds after which no trial starts and running trials are paused.
        warm_start: Folders of earlier studies, whose best points are run first.
        fork: Folder of a new study that goes on from the study in `out` after its videos have changed. It
            keeps the split of every old video and starts with the best points of `out`.
        retry_failed: Run failed trials again, with their points.
        seed: Seed of the sampler.
        overrides: Settings of all trials by dotted path: `{"optim.epochs": 10}`.
        study: Further settings of the `study` section: `{"gpus": 0.25}` lets four trials share a GPU.
        cache: Folder of decoded videos and cached features, see `cache_folder`.
        address: Running Ray cluster (`"auto"` or `"HOST:6379"`). By default Ray is started on this machine.
        progress: Called with (description, done, total) for each step of the work. Work that cannot be
            counted has a total of 1.
        on_trial: Called with ("epoch" or "ended", trial), where trial is a `TrialRecord`.

    Raises:
        ValueError: A setting is invalid, videos cannot be read, a trial fits on no machine, or `out` is the
            folder of another study.
        MachineFault: A fault of the machine, such as a full disk, paused the study. The same call continues
            it.
    """
    from evclip_ray.results import Study

    settings = {**(study or {}), **_given(trials=trials, seed=seed)}
    run = open_study(
        space,
        out=out,
        overrides={**source_overrides(data, root), **(overrides or {})},
        study=settings,
        cache=cache,
        warm_start=warm_start,
        fork=fork,
        time_budget=time_budget,
        retry_failed=retry_failed,
    )
    outcome = run_study(run, address=address, progress=progress, watch=lambda plan: on_trial or _ignore)
    assert outcome is not None
    if outcome.interrupted:
        log.warning("study %s was interrupted; the same call resumes it", run.folder.root)
    elif problem := shortfall(run, outcome):
        log.warning("study %s: %s", run.folder.root, problem)
    return dataclasses.replace(Study.load(run.folder.root), outcome=outcome)


def open_study(
    space: "str | Path | SearchSpace",
    *,
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    study: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    warm_start: Sequence[str | Path] = (),
    fork: str | Path | None = None,
    time_budget: float | None = None,
    retry_failed: bool = False,
) -> "StudyRun":
    """Return a study that has not started: its space with overrides, and its folder. See `tune`."""
    with stage("loading Ray"):
        from evclip_ray.tuning.search_space import SearchSpace, read_space
        from evclip_ray.tuning.space_files import find_space
        from evclip_ray.tuning.tuner import StudyRun

    if isinstance(space, SearchSpace):
        searched = space.replace(overrides, study=study)
    else:
        searched = read_space(find_space(str(space)), overrides, study=study)
    root = Path(out or Path("studies") / searched.name)
    _refuse_same_folder(root, fork)
    return StudyRun(
        searched,
        root if fork is None else Path(fork),
        cache=cache_folder(cache),
        warm_start=[Path(folder) for folder in warm_start],
        time_budget=time_budget,
        fork_of=None if fork is None else root,
        retry_failed=retry_failed,
    )


def _refuse_same_folder(out: str | Path, fork: str | Path | None) -> None:
    from evclip_ray.config import ConfigError

    if fork is not None and Path(fork).expanduser().resolve() == Path(out).expanduser().resolve():
        raise ConfigError(f"--fork {fork}: is the folder of --out. Give a new folder.")


def run_study(
    run: "StudyRun",
    *,
    address: str | None = None,
    verbose: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    watch: "Callable[[StudyPlan], OnEvent]" = lambda plan: _ignore,
    on_claim: "Callable[[Path], None]" = lambda folder: None,
) -> "Outcome | None":
    """Plan a study, prepare its videos and run the missing trials; return None after a dry run.

    Args:
        run: Study, see `open_study`. If no trial is missing, only its leaderboard is written.
        address: Running Ray cluster; None starts Ray on this machine.
        verbose: Show the log of Ray.
        dry_run: Stop after planning. The plan then has the cost of a measured training step.
        progress: Called with (description, done, total) for each step of the work. Work that cannot be
            counted has a total of 1.
        watch: Called with the plan; returns the receiver of the trials' events.
        on_claim: Called with the folder once it belongs to the study.
    """
    with reporting_to(progress):
        return _run_study(
            run,
            address=address,
            verbose=verbose,
            dry_run=dry_run,
            progress=progress,
            watch=watch,
            on_claim=on_claim,
        )


def _run_study(
    run: "StudyRun",
    *,
    address: str | None,
    verbose: bool,
    dry_run: bool,
    progress: Progress | None,
    watch: "Callable[[StudyPlan], OnEvent]",
    on_claim: "Callable[[Path], None]",
) -> "Outcome | None":
    from evclip_ray.cluster import connect

    _refuse_job_address(address)
    # Nothing to run: Ray is not started, which would take seconds.
    if run.missing() == 0:
        with stage("checking the study"):
            return run.finished()
    # Starting Ray takes seconds too, and wrong paths are found without it.
    with stage("reading the list"):
        run.check_videos(progress)
    # A group of several workers frees the processes of a stopped trial through the dashboard.
    has_groups = run.space.study.workers > 1
    # The folders that all nodes of a cluster must see. A dry run writes nothing and needs no check.
    shared = () if dry_run else (run.folder.root, run.cache)
    with connect(
        address, verbose=verbose, dashboard=has_groups, storage=shared, progress=progress
    ) as machines:
        # Planned after the connection: concurrency depends on the machines. Measuring a step is worth its
        # time only in a dry run.
        with stage("planning and measuring a step" if dry_run else "planning the study"):
            plan = run.plan(machines, measure=dry_run, progress=progress)
        on_trial = watch(plan)
        if dry_run:
            # A real call finds leaks by content before it decodes.
            plan.check_leaks()
            return None
        run.claim()
        on_claim(run.folder.root)
        with stage("preparing the videos"):
            run.prepare(progress)
        return run.run(plan, on_trial, progress)


def shortfall(run: "StudyRun", outcome: "Outcome") -> str | None:
    """Return why an uninterrupted study has not enough finished trials, or None."""
    if outcome.out_of_time and outcome.missing:
        paused = sum(row.state == "paused" for row in outcome.rows)
        remaining = (
            ""
            if math.isinf(outcome.missing)
            else f", {counted(outcome.missing, 'trial', 'remains', 'remain')} to be run"
        )
        return f"the time budget is used up: {counted(paused, 'trial', 'is', 'are')} paused{remaining}"
    if outcome.missing:
        return (
            f"{outcome.missing:.0f} of {counted(run.trials, 'trial')} "
            f"{'was' if outcome.missing == 1 else 'were'} not run although nothing interrupted the "
            "study. Run it again; --verbose shows the log of Ray"
        )
    if outcome.rows and all(row.state == "failed" for row in outcome.rows):
        return (
            f"every trial failed. The first error: {outcome.rows[0].error}. After a fix, --retry-failed runs "
            "them again"
        )
    return None


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """Result of one training. `metrics`: those of the last epoch, with the best epoch and its scores."""

    folder: Path
    metrics: "EpochMetrics"

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint for `evaluate`: the best epoch, or the last one if that is selected."""
        return self.folder / "best"


def train(
    experiment: "str | Path | ExperimentConfig",
    *,
    data: str | Path | None = None,
    root: str | Path | None = None,
    out: str | Path | None = None,
    fork: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    workers: int = 1,
    min_workers: int | None = None,
    cpus_per_worker: float | None = None,
    gpus_per_worker: float | None = None,
    cache: str | Path | None = None,
    address: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
    on_epoch: "Callable[[EpochMetrics], None] | None" = None,
) -> TrainedRun:
    """Train one experiment and return its run. The same call again resumes it.

    Example::

        run = evclip_ray.train("studies/first/best.yaml", overrides={"seed": 1}, out="runs/seed1")
        run.metrics.best_val_top1

    Args:
        experiment: Experiment, or the path of its YAML file, such as the `best.yaml` of a study.
        data: Manifest (CSV or Parquet), or a folder with one folder of videos per class.
        root: Folder or URI that the paths in the manifest are relative to.
        out: Folder of the run; by default `runs/NAME`, where NAME is that of the file, or for the `best.yaml`
            of a study that of the study.
        fork: Folder of a new run that keeps the splits of the run in `out` after its videos have changed.
        overrides: Settings by dotted path: `{"optim.epochs": 10}`.
        workers: Number of training processes (DDP in Ray Train).
        min_workers: Keep training with at least this many workers after machines are lost.
        cpus_per_worker: CPUs of each worker, by default 1. A single worker computes with as many threads as
            the trial of a study's `best.yaml`, otherwise with all CPUs of this machine.
        gpus_per_worker: GPUs of each worker; by default 1 if a machine has any.
        cache: Folder of decoded videos and cached features, see `cache_folder`.
        address: Running Ray cluster (`"auto"` or `"HOST:6379"`). By default Ray is started on this machine.
        verbose: Show the log of Ray.
        progress: Called with (description, done, total) for each step of the work. Work that cannot be
            counted has a total of 1.
        on_epoch: Called with the metrics of each epoch.

    Raises:
        ValueError: A setting is invalid, videos cannot be read, workers fit on no machine, `out` belongs to
            another experiment, or the loss became NaN in the first epoch.
    """
    from evclip_ray.config import ConfigError

    with stage("loading Ray"):
        from evclip_ray.cluster import connect
        from evclip_ray.training.checkpoint import ROWS
        from evclip_ray.training.experiment import ExperimentConfig, read_experiment
        from evclip_ray.training.train import train_experiment
        from evclip_ray.training.video_lists import check_source

    _refuse_job_address(address)
    settings = {**source_overrides(data, root), **(overrides or {})}
    # Loaded again with the overrides, so that they pass the same validation as those of a file.
    if isinstance(experiment, ExperimentConfig):
        if out is None:
            raise ConfigError("train: an experiment that is not a file needs a folder for its run; give out=")
        config = ExperimentConfig.load(experiment.model_dump(mode="json"), settings)
    else:
        config = read_experiment(Path(experiment), settings)
        out = out or Path("runs") / _run_name(Path(experiment))
    _refuse_same_folder(out, fork)
    if fork and not (Path(out).expanduser() / ROWS).is_file():
        raise ConfigError(
            f"--fork: {out} has no {ROWS}, so that the splits of its videos are not known. Train in a new "
            "--out instead."
        )
    folder, cache = Path(fork or out).expanduser(), cache_folder(cache)
    with reporting_to(progress), stage("reading the list"):
        check_source(config, cache=cache)
        best = _study_checkpoint(experiment)
        keeps_splits = best is not None and _keeps_videos(best, config, settings, cache)
    storage = (folder.resolve(), cache)
    with (
        reporting_to(progress),
        connect(
            address, verbose=verbose, dashboard=workers > 1, storage=storage, progress=progress
        ) as machines,
    ):
        metrics = train_experiment(
            config,
            folder=folder,
            cache=cache,
            machines=machines,
            on_cluster=address is not None,
            workers=workers,
            min_workers=min_workers,
            cpus=cpus_per_worker,
            gpus=gpus_per_worker,
            decoding=progress,
            on_epoch=on_epoch or _ignore,
            splits_of=Path(out).expanduser() if fork else best if keeps_splits else None,
            repeats=best,
        )
    # Without a finished epoch there is no `best/`, so a path to it must not be returned.
    if not metrics.best_epoch:
        raise ValueError(
            "the loss became NaN in the first epoch and no checkpoint was saved. "
            "Lower optim.lr and choose a new --out"
        )
    return TrainedRun(folder, metrics)


def _run_name(file: Path) -> str:
    """Return the name of the folder of a run: that of its file, or of the study of a `best.yaml`."""
    folder = file.absolute().parent
    if file.stem != "best" or not (folder / "trials").is_dir():
        return file.stem
    # The study of a step of a ladder is LADDER/rungs/STEP.
    is_step = folder.parent.name == "rungs"
    return f"{folder.parents[1].name}-{folder.name}" if is_step else folder.name


def _study_checkpoint(experiment: Any) -> Path | None:
    """Return the checkpoint next to a study's best.yaml, None for another file."""
    if not isinstance(experiment, str | Path):
        return None
    best = Path(experiment).with_suffix("")
    return best if (best / "config.json").is_file() else None


def _keeps_videos(best: Path, config: "ExperimentConfig", settings: Mapping[str, Any], cache: Path) -> bool:
    """Return whether a training has the videos of a checkpoint, and so their splits.

    Args:
        best: Folder of the checkpoint.
        config: Settings of the training.
        settings: Those that replace the settings of the checkpoint.
        cache: Folder of the small world's videos.
    """
    from evclip_ray.evaluation.plan import is_training_list
    from evclip_ray.training.checkpoint import read_record
    from evclip_ray.training.experiment import LOCATION, ExperimentConfig
    from evclip_ray.training.video_lists import list_videos

    splits = ("world", "split_seed", "val_fraction", "test_fraction")
    # Another selection holds out other videos: those of `last_epoch` have no validation split to keep.
    chooses_videos = (*splits, "selection", "val_shots", "folds")
    changed = {".".join(path.split(".")[:2]) for path, value in settings.items() if value is not None}
    if changed & {f"data.{name}" for name in chooses_videos}:
        return False
    if not changed & {f"data.{name}" for name in LOCATION}:
        return True
    recorded = ExperimentConfig.load(read_record(best)["experiment"]).data
    return is_training_list(
        best, recorded, config.data, list_videos(config, cache=cache, allow_same_labels=True)
    )


@dataclasses.dataclass(frozen=True)
class ScoredCheckpoint:
    """Scores of one checkpoint, by evaluation set of the protocol. `folder` has the tables."""

    checkpoint: Path
    folder: Path
    sets: "Mapping[str, EvaluationResult]"

    @functools.cached_property
    def videos(self) -> "pd.DataFrame":
        """One row per video: its path, its label and the predicted class names."""
        import pandas as pd

        tables = []
        for name in self.sets:
            folder = self.folder if len(self.sets) == 1 else self.folder / name
            # As text: a label such as "1" or "NA" must not become a number or a missing value.
            table = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
            tables.append(table.assign(checkpoint=str(self.checkpoint), set=name))
        return pd.concat(tables, ignore_index=True)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of checkpoints. `mean_scores`: means over checkpoints, per set, method and metric."""

    checkpoints: tuple[ScoredCheckpoint, ...]
    mean_scores: "Sequence[CheckpointMean]"

    @property
    def means(self) -> "pd.DataFrame":
        """One row per set, method and metric: the mean over checkpoints and its 95 % interval."""
        import pandas as pd

        return pd.DataFrame([mean.row() for mean in self.mean_scores])

    @property
    def videos(self) -> "pd.DataFrame":
        """One row per checkpoint and video: its path, its label and the predicted class names."""
        import pandas as pd

        return pd.concat([scored.videos for scored in self.checkpoints], ignore_index=True)


def evaluate(
    checkpoints: str | Path | Sequence[str | Path],
    *,
    data: str | Path | None = None,
    root: str | Path | None = None,
    split: str = "test",
    protocol: str = "closed_set",
    views: str = "1x1",
    average: str = "probability",
    calibrate: bool = False,
    reject_risk: float | None = None,
    reject_below: float | None = None,
    conformal: float | None = None,
    interval: "IntervalKind" = "t",
    out: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    address: str | None = None,
    verbose: bool = False,
    progress: Progress | None = None,
    on_checkpoint: Callable[[ScoredCheckpoint], None] | None = None,
) -> Evaluation:
    """Score checkpoints and zero-shot CLIP on the same views of one split.

    Example::

        result = evclip_ray.evaluate("studies/first/best", split="test", views="4x3")
        result.means
        result.videos.query("adapted != label")

    Args:
        checkpoints: One checkpoint folder, or several of runs that differ in their seed.
        data: Manifest or folder of class folders; by default the videos of the training.
        root: Folder or URI that the paths in the manifest are relative to.
        split: Split to score. Each evaluation of a split is counted in the ledger of its folder.
        protocol: `closed_set`, `cross_dataset`, `cross_domain`, `base_to_novel` or `zero_shot`.
        views: Views per video, TEMPORALxSPATIAL: `"4x3"`.
        average: Scores that are averaged over views: `"probability"` or `"logit"`.
        calibrate: Whether to fit a calibration on the checkpoint's own validation videos and write it into
            the checkpoint. A checkpoint that has one is measured with it in any case.
        reject_risk: Choose the threshold of unknown videos: the largest tolerated error among the others.
        reject_below: Set this threshold: the best probability below which a video is unknown.
        conformal: Fit sets of classes that hold the true one for this share of videos.
        interval: Interval of the means over checkpoints: `"t"` (Student) or `"bootstrap"`.
        out: Folder of the tables, with several checkpoints a folder for each. Default: `CHECKPOINT-SPLIT`,
            and behind it the protocol and the name of the list if they are not those of the training.
        overrides: Settings by dotted path.
        cache: Folder of decoded videos and cached features, see `cache_folder`.
        address: Running Ray cluster that decodes videos. By default Ray is started on this machine.
        verbose: Show the log of Ray.
        progress: Called with (description, done, total) for each step of the work. Work that cannot be
            counted has a total of 1.
        on_checkpoint: Called after each checkpoint.

    Raises:
        ValueError: A checkpoint cannot be read, its classes do not fit the protocol, or its frozen weights
            differ from those of the training. Or it cannot be calibrated.
    """
    from evclip_ray.artifacts import write_csv
    from evclip_ray.evaluation.calibrate import (
        CalibrationSettings,
        calibrate_checkpoint,
        plan_calibration,
        read_calibration,
    )
    from evclip_ray.evaluation.evaluate import evaluate_checkpoint
    from evclip_ray.evaluation.plan import plan_evaluation
    from evclip_ray.evaluation.seed_means import means_over_checkpoints
    from evclip_ray.evaluation.tables_folder import tables_folder
    from evclip_ray.metrics.multi_view import EvaluationViews
    from evclip_ray.training.datamodule import prepare
    from evclip_ray.tuning.study_folder import name_recovery

    _refuse_job_address(address)
    folders = [Path(c) for c in ([checkpoints] if isinstance(checkpoints, str | Path) else checkpoints)]
    settings = {**source_overrides(data, root), **(overrides or {})}
    cache, parsed_views = cache_folder(cache), EvaluationViews.parse(views, average)
    fit_options = {"reject_risk": reject_risk, "reject_below": reject_below, "conformal": conformal}
    fit = CalibrationSettings.parse(calibrate, fit_options, protocol=protocol, views=parsed_views)
    results = []
    for number, checkpoint in enumerate(folders):
        # The path "." has no name.
        named = checkpoint if checkpoint.name else checkpoint.absolute()
        with name_recovery(checkpoint):
            with reporting_to(progress), stage("reading the list"):
                plan = plan_evaluation(
                    checkpoint, settings, split=split, cache=cache, protocol=protocol, views=parsed_views
                )
                tables = Path(out) if out else tables_folder(named, plan)
            if out and len(folders) > 1:
                # Numbered: checkpoints are often all called `best`, and parents of several studies can have
                # one name.
                tables = Path(out) / f"{number}-{checkpoint.parent.name}"
            fit_plan = plan_calibration(checkpoint, settings, cache=cache) if fit else None
            both = [plan.plans, fit_plan.plans if fit_plan else {}]
            needed = [video_plan for plans in both for video_plan in plans.values()]
            with (
                reporting_to(progress),
                ray_if_needed(needed, cache=cache, address=address, verbose=verbose, progress=progress),
            ):
                videos, validation = (
                    {name: prepare(each, cache=cache, progress=progress) for name, each in plans.items()}
                    for plans in both
                )
            with reporting_to(progress):
                calibration = (
                    calibrate_checkpoint(fit_plan, validation["val"], fit)
                    if fit and fit_plan
                    else read_calibration(plan)
                )
                scores = evaluate_checkpoint(plan, videos, out=tables, calibration=calibration)
        results.append(ScoredCheckpoint(checkpoint, tables, scores))
        if protocol != "zero_shot":
            _refresh_card(checkpoint, tables)
        if on_checkpoint is not None:
            on_checkpoint(results[-1])
    means = means_over_checkpoints([each.sets for each in results], interval=interval)
    if len(folders) > 1:
        rows = [mean.row() for mean in means]
        path = Path(out or folders[0].parent) / "means.csv"
        write_csv(path, list(rows[0]), (row.values() for row in rows))
    return Evaluation(tuple(results), means)


def predict(
    checkpoint: str | Path,
    videos: "str | Path | Iterable[str | Path]",
    *,
    classes: Sequence[str] | None = None,
    top_k: int = 5,
    window_seconds: float | None = None,
    stride_seconds: float | None = None,
    masks: bool = False,
    device: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> "Iterator[Prediction | FailedVideo]":
    """Yield what a checkpoint predicts for each video, in order.

    Load a `Recognizer` instead to predict more than once.

    Example::

        results = evclip_ray.predict("studies/first/best", ["a.mp4", "b.mp4"])
        names = {result.video: result.best.name for result in results}

    Args:
        checkpoint: Folder of a checkpoint, or a URI such as `hf://user/name`.
        videos: One video or several: files, folders of frames or URIs.
        classes: Other class names than those of the training, see `Recognizer.with_classes`.
        top_k: Number of classes in a prediction.
        window_seconds: Length of a window; None for one view of the whole video.
        stride_seconds: Seconds between the starts of two windows; by default a window.
        masks: Whether to return the masks of a method that has some.
        device: `"cpu"` or `"cuda"`; by default the GPU, or else the CPU.
        overrides: Settings by dotted path.
        batch_size: Views per forward pass; by default `optim.eval_batch_size` of the training.
        workers: Number of decoding threads; by default the CPUs of this machine, at most 8.

    Yields:
        A `Prediction` for each video, or a `FailedVideo` with the reason.

    Raises:
        ValueError: The checkpoint cannot be loaded, or a setting is out of range.
    """
    from evclip_ray.deploy.recognizer import Recognizer

    recognizer = Recognizer.load(checkpoint, classes=classes, device=device, overrides=overrides)
    return recognizer.predict_many(
        [videos] if isinstance(videos, str | Path) else videos,
        top_k=top_k,
        window_seconds=window_seconds,
        stride_seconds=stride_seconds,
        masks=masks,
        batch_size=batch_size,
        workers=workers,
    )


def _refresh_card(checkpoint: Path, tables: Path) -> None:
    """Write the model card of a checkpoint with the scores of an evaluation."""
    from evclip_ray.deploy.model_card import write_model_card

    try:
        write_model_card(checkpoint, evaluations=[tables])
    # Results may be read-only, and the scores are in the tables.
    except OSError as error:
        log.warning("%s: its model card cannot be written (%s)", checkpoint, error.strerror)


@contextlib.contextmanager
def ray_if_needed(
    plans: "Iterable[VideoPlan]",
    *,
    cache: Path,
    address: str | None,
    verbose: bool,
    progress: Progress | None = None,
) -> Iterator[None]:
    """Connect to Ray if a plan has videos that are not decoded yet: starting Ray takes seconds."""
    from evclip_ray.cluster import connect
    from evclip_ray.training.datamodule import is_prepared

    if all(is_prepared(plan, cache) for plan in plans):
        yield
    else:
        with connect(address, verbose=verbose, progress=progress):
            yield


def source_overrides(data: str | Path | None, root: str | Path | None) -> dict[str, Any]:
    """Return the overrides that `data` and `root` stand for, with absolute paths."""
    overrides: dict[str, Any] = {}
    if data is not None:
        # Only one source can be set: naming a manifest replaces the small world of a space. The digests of
        # earlier studies contain `data.synthetic: null`.
        overrides |= {"data.manifest": _absolute(data), "data.world": None, "data.synthetic": None}
    if root is not None:
        overrides["data.root"] = _absolute(root)
    return overrides


def _absolute(path: str | Path) -> str:
    # A study's best.yaml must work from any folder; a URI stays as it is.
    return str(path) if "://" in str(path) else str(Path(path).expanduser().resolve())


def _given(**settings: Any) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _ignore(*arguments: Any) -> None:
    """Receive an event and drop it."""


def _refuse_job_address(address: str | None) -> None:
    from evclip_ray.config import ConfigError

    if address is not None and "://" in address:
        raise ConfigError(
            f"address {address}: a dashboard or Ray Client address takes jobs only. Run the program on a "
            "machine of the cluster with address='auto', or send a command with evclip-ray submit"
        )
