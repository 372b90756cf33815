"""Calibration of a checkpoint on its own validation videos, never on videos that are evaluated.

The videos are those that the checkpoint recorded as its validation split, compared by content, also if the
evaluation is on another list. They selected the checkpoint as well, so that its probabilities are slightly
better on them than on new videos.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from evclip_ray.artifacts import ArtifactError, check_writable
from evclip_ray.config import Config, ConfigError
from evclip_ray.data.manifest.row_record import RowRecord
from evclip_ray.evaluation.evaluate import score_checkpoint
from evclip_ray.evaluation.plan import (
    EvaluationPlan,
    composed_classes,
    is_training_list,
    refuse_unknown_classes,
)
from evclip_ray.formatting import counted
from evclip_ray.metrics.calibration import Calibration, ValidationFacts, adapter_checksum, fit_temperature
from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.conformal import conformal_quantile, rank_of
from evclip_ray.metrics.multi_view import EvaluationViews
from evclip_ray.metrics.rejection import RiskCoverage, choose_threshold
from evclip_ray.metrics.scoring import Scores
from evclip_ray.training.build import computed_in, pick_device
from evclip_ray.training.checkpoint import ROWS, read_record
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_lists import list_videos
from evclip_ray.training.video_plan import VideoPlan, plan_videos
from evclip_ray.version import __version__

log = logging.getLogger(__name__)

_SOURCE = {"data.manifest", "data.root", "data.world", "data.synthetic"}
"""Settings that name the list of videos. The record of rows has the choice among them."""


class CalibrationSettings(Config):
    """What to fit besides the temperature.

    Attributes:
        reject_risk: Largest tolerated error among accepted validation videos; None chooses no threshold.
        reject_below: Probability below which a video is unknown; None chooses no threshold.
        conformal: Share of videos whose set of classes is to hold the true one; None for no sets.
    """

    reject_risk: float | None = Field(None, gt=0, lt=1)
    reject_below: float | None = Field(None, gt=0, lt=1)
    conformal: float | None = Field(None, gt=0, lt=1)

    @classmethod
    def parse(
        cls, is_requested: bool, options: Mapping[str, Any], *, protocol: str, views: EvaluationViews
    ) -> "CalibrationSettings | None":
        """Check the options of `evaluate`. Returns None if no calibration is requested.

        Args:
            is_requested: Whether to calibrate.
            options: The settings of this class; None for those that are not given.
            protocol: Protocol of the evaluation.
            views: Views of the evaluation.

        Raises:
            ConfigError: A value is out of its range, or options contradict each other.
        """
        given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
        if not is_requested:
            if given:
                raise ConfigError(f"{given[0]} needs --calibrate, which fits it on the validation videos.")
            return None
        if protocol == "zero_shot":
            raise ConfigError(
                "--calibrate needs the scores of a checkpoint, and --protocol zero_shot has none."
            )
        if (views.temporal, views.spatial) != (1, 1):
            raise ConfigError(
                f"--calibrate needs --views 1x1, got {views}: `predict` scores one view at a time, and an "
                "average over views has other probabilities."
            )
        if options.get("reject_risk") is not None and options.get("reject_below") is not None:
            raise ConfigError("--reject-risk and --reject-below both set the threshold; give one of them.")
        return cls.load({}, dict(options))


def plan_calibration(checkpoint: Path, overrides: Mapping[str, Any], *, cache: Path) -> EvaluationPlan:
    """Choose the recorded validation videos of a checkpoint.

    Args:
        checkpoint: Folder of the checkpoint.
        overrides: Settings of the evaluation. Its videos are not used, unless they are the training's list.
        cache: Folder of decoded videos.

    Raises:
        ArtifactError: The folder is not a checkpoint, cannot be written to, or has no validation videos.
    """
    record = read_record(checkpoint)
    check_writable(checkpoint, f"copy it to a folder of yours and calibrate the copy: cp -r {checkpoint} .")
    known = RowRecord.read(checkpoint / ROWS) if (checkpoint / ROWS).is_file() else None
    if known is not None and not known.has_validation:
        raise ArtifactError(
            f"{checkpoint}: has no validation videos to calibrate on, because it trained on all of them "
            "(data.selection=last_epoch). Train it again with --set data.selection=kshot_validation or "
            "--set data.selection=validation."
        )
    experiment = _own_videos(checkpoint, record, overrides, cache)
    recorded = known and known.with_paths_of(list_videos(experiment, cache=cache, allow_same_labels=True))
    plan = plan_videos(experiment, cache=cache, splits=("val",), recorded=recorded, legacy=known is None)
    if not len(plan.rows.get("val", ())):
        raise ArtifactError(
            f"{checkpoint}: the list {plan.manifest.source} has no validation videos to calibrate on. Give "
            "the list of the training with --data."
        )
    rows = plan.rows["val"] if known is None else _recorded_rows(checkpoint, known, plan)
    trained = composed_classes(record["classes"])
    labels = plan.manifest.select(rows).classes
    refuse_unknown_classes(checkpoint, labels, trained)
    chosen = VideoPlan(
        plan.manifest,
        {"val": rows},
        trained,
        experiment.view,
        {"val": 1},
        seconds_per_video=experiment.data.seconds_per_video,
    )
    return EvaluationPlan(
        checkpoint, experiment, trained, "closed_set", "val", EvaluationViews(), {"val": chosen}
    )


def _own_videos(
    checkpoint: Path, record: Mapping[str, Any], overrides: Mapping[str, Any], cache: Path
) -> ExperimentConfig:
    """Return the settings of an evaluation with the videos of the training."""
    recorded = ExperimentConfig.load(record["experiment"])
    given = ExperimentConfig.load(record["experiment"], overrides)
    listed = list_videos(given, cache=cache, allow_same_labels=True)
    # The same videos may have been moved to another folder, where the recorded list does not exist.
    is_same = is_training_list(checkpoint, recorded.data, given.data, listed)
    kept = {
        path: value
        for path, value in overrides.items()
        if not path.startswith("data.") or (is_same and (path in _SOURCE or path.endswith("_column")))
    }
    return ExperimentConfig.load(record["experiment"], kept)


def _recorded_rows(checkpoint: Path, known: RowRecord, plan: VideoPlan) -> NDArray[np.int64]:
    """Return the rows whose videos the checkpoint recorded as its validation split."""
    rows = plan.rows["val"]
    used = known.overlap(plan.manifest, rows)
    kept = np.array([row for row in rows.tolist() if used.get(row, ("",))[0] == "val"], np.int64)
    now = RowRecord.of(plan.manifest, {"val": kept}, known=known)
    num_recorded = known.table["use"].to_pylist().count("val")
    if not len(kept):
        raise ArtifactError(
            f"{checkpoint}: none of the {counted(num_recorded, 'video')} that validated it are in "
            f"{plan.manifest.source}. Give the list of the training with --data."
        )
    if now.keys().get("val") != known.keys().get("val"):
        log.warning(
            "%s: was validated on %s, and %d of %s are used. Some are missing or have changed since.",
            checkpoint,
            counted(num_recorded, "video"),
            len(kept),
            plan.manifest.source,
        )
    return kept


def calibrate_checkpoint(plan: EvaluationPlan, videos: Videos, settings: CalibrationSettings) -> Calibration:
    """Fit the calibration of a checkpoint and write it into its folder.

    Args:
        plan: Result of `plan_calibration`.
        videos: Decoded videos of the plan.
        settings: What to fit besides the temperature.

    Raises:
        ArtifactError: No threshold reaches the tolerated risk, or the folder cannot be written to.
    """
    chosen = videos.sets["val"]
    scores = score_checkpoint(plan, videos)
    if not len(scores.labels):
        raise ArtifactError(
            f"{plan.checkpoint}: cannot be calibrated, because none of its validation videos can be decoded."
        )
    calibration = fit_calibration(
        scores,
        videos.classes,
        settings,
        groups=chosen.groups,
        facts={
            "videos": chosen.key,
            "conditions": computed_in(plan.experiment, pick_device()),
        },
        adapter=adapter_checksum(plan.checkpoint),
    )
    calibration.write(plan.checkpoint)
    return calibration


def read_calibration(plan: EvaluationPlan) -> Calibration | None:
    """Return the calibration of the checkpoint of an evaluation; None if there is none to measure.

    Raises:
        ArtifactError: The calibration is damaged or belongs to another checkpoint.
    """
    if plan.protocol == "zero_shot":
        return None
    calibration = Calibration.read(plan.checkpoint)
    if calibration is not None and (plan.views.temporal, plan.views.spatial) != (1, 1):
        log.warning(
            "%s: its calibration is for one view, so that it is not measured on %s.",
            plan.checkpoint,
            plan.views,
        )
        return None
    return calibration


def fit_calibration(
    scores: Scores,
    classes: tuple[str, ...],
    settings: CalibrationSettings,
    *,
    groups: NDArray[np.int64] | None = None,
    facts: Mapping[str, Any] | None = None,
    adapter: tuple[int, int] | None = None,
) -> Calibration:
    """Fit temperature, threshold and conformal quantile on scored validation videos.

    Args:
        scores: Scores of V videos.
        classes: Class names in index order.
        settings: What to fit besides the temperature.
        groups: (V,) number of each video's group; None if the videos are independent.
        facts: Further fields of `ValidationFacts`.
        adapter: Size and CRC-32 of the trained tensors.

    Raises:
        ArtifactError: No threshold reaches the tolerated risk.
    """
    temperature, warnings = fit_temperature(scores.logits, scores.labels)
    calibration = Calibration(temperature=temperature, classes=classes)
    probabilities = calibration.probabilities(scores.logits)
    confidence, right = probabilities.max(axis=1), scores.right
    threshold = settings.reject_below
    if settings.reject_risk is not None:
        threshold = choose_threshold(RiskCoverage.of(confidence, right), settings.reject_risk)
    quantile = None
    if settings.conformal is not None:
        quantile = conformal_quantile(probabilities, scores.labels, settings.conformal)
        if rank_of(settings.conformal, len(right)) > len(right):
            warnings = (*warnings, _too_few(settings.conformal, len(right)))
    accepted = confidence >= threshold if threshold is not None else None
    before = scores.state
    after = ClassificationState.of(scores.logits / temperature, scores.labels)
    validation = ValidationFacts(
        num_videos=len(right),
        num_groups=None if groups is None else len(np.unique(groups)),
        top1=before.top1,
        calibration_error=(before.calibration_error, after.calibration_error),
        log_loss=(before.log_loss, after.log_loss),
        max_risk=settings.reject_risk,
        accepted=None if accepted is None else float(accepted.mean()),
        accepted_risk=None if accepted is None or not accepted.any() else float((~right[accepted]).mean()),
        written=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        version=__version__,
        warnings=warnings,
        **(facts or {}),
    )
    return calibration.model_copy(
        update={
            "unknown_below": threshold,
            "conformal_level": settings.conformal,
            "conformal_quantile": quantile,
            "adapter": adapter,
            "validation": validation,
        }
    )


def _too_few(level: float, num_videos: int) -> str:
    # ceil((n + 1) level) <= n holds from n = level / (1 - level).
    needed = num_videos
    while rank_of(level, needed) > needed:
        needed += 1
    return (
        f"{counted(num_videos, 'validation video', 'is', 'are')} too few for conformal sets at level "
        f"{level:g}, which needs {needed}; every set holds all classes"
    )
