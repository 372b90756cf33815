"""Plan of an evaluation: the evaluation sets of a protocol, and the views of each video.

An evaluation set has its own classes. If all of them were trained, the checkpoint predicts among all its
classes and the columns of the set are selected. Otherwise the method is built again with the names of the
set, which requires that no trained tensor belongs to a class.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError, nearest
from evclip_ray.data.manifest.leaks import refuse_training_overlap
from evclip_ray.data.manifest.protocols import TRANSFERS, EvalSet, Protocol, already_trained, zero_shot
from evclip_ray.data.manifest.splits import assign_splits
from evclip_ray.metrics.multi_view import EvaluationViews
from evclip_ray.training.checkpoint import read_record
from evclip_ray.training.datamodule import VideoPlan, find_protocol, plan_videos, resolve_manifest
from evclip_ray.training.experiment import DataConfig, ExperimentConfig

log = logging.getLogger(__name__)

PROTOCOLS = ("closed_set", "zero_shot", *TRANSFERS)


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """Checkpoint, protocol and videos of an evaluation.

    Attributes:
        checkpoint: Folder of the checkpoint.
        experiment: Settings of the checkpoint, with overrides.
        trained: Class names of the checkpoint.
        protocol: Name of the protocol.
        split: Split that is evaluated.
        views: Temporal and spatial views of a video.
        plans: Videos of each evaluation set.
    """

    checkpoint: Path
    experiment: ExperimentConfig
    trained: tuple[str, ...]
    protocol: str
    split: str
    views: EvaluationViews
    plans: dict[str, VideoPlan]


def plan_evaluation(
    checkpoint: Path,
    overrides: dict[str, Any],
    *,
    split: str,
    cache: Path,
    protocol: str = "closed_set",
    views: EvaluationViews | None = None,
) -> EvaluationPlan:
    """Choose the videos of each evaluation set.

    Args:
        checkpoint: Folder of the checkpoint.
        overrides: Settings that differ from those of the training, such as the manifest.
        split: Split to evaluate.
        cache: Folder of decoded videos.
        protocol: Name of the protocol.
        views: Views of a video; by default one.

    Raises:
        ConfigError: The protocol is unknown.
        ArtifactError: The folder is not a checkpoint, or a closed set has labels that were not trained.
        ValueError: A condition of the protocol does not hold, or videos were used for training or selection
            under another manifest.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r} is unknown; {nearest(protocol, list(PROTOCOLS))}")
    views = views or EvaluationViews()
    record = read_record(checkpoint)
    recorded = ExperimentConfig.load(record["experiment"])
    # `recorded` has the videos of the training, `experiment` those of the evaluation.
    experiment = ExperimentConfig.load(record["experiment"], overrides)
    trained = tuple(record["classes"])
    # Videos of the same manifest are separated by its splits. Another manifest may contain training videos
    # again.
    is_other_source = _source_of(recorded.data) != _source_of(experiment.data)
    checked = is_other_source and protocol != "zero_shot"
    source = (
        _trained(recorded.data, trained, cache)
        if checked or protocol in TRANSFERS
        else already_trained(trained)
    )
    if protocol == "closed_set":
        plan = plan_videos(experiment, cache=cache, splits=(split,))
        _refuse_unknown(checkpoint, plan.classes, trained)
        # With the classes of the checkpoint: a split may lack some of them, and the columns must stay the
        # same.
        eval_sets = {split: EvalSet(plan.manifest, plan.rows[split], trained)}
    else:
        eval_sets = _transfer(protocol, recorded.data, experiment.data, source, split=split, cache=cache)
    plans = {
        name: VideoPlan(
            eval_set.manifest,
            {split: eval_set.rows},
            eval_set.classes,
            experiment.view,
            {split: views.temporal},
            spread=views.temporal > 1,
            trained_on=_trained_on(source, eval_set) if checked else frozenset(),
            seconds_per_video=experiment.data.seconds_per_video,
        )
        for name, eval_set in eval_sets.items()
    }
    return EvaluationPlan(checkpoint, experiment, trained, protocol, split, views, plans)


def _refuse_unknown(checkpoint: Path, classes: tuple[str, ...], trained: tuple[str, ...]) -> None:
    unknown = sorted(set(classes) - set(trained))
    if unknown:
        raise ArtifactError(
            f"{checkpoint}: was trained on {len(trained)} classes, but the videos have {len(unknown)} other "
            f"classes ({', '.join(unknown[:5])}). Give videos of the trained classes, or choose another "
            "protocol, for example --protocol cross_dataset."
        )


def _transfer(
    protocol: str,
    source: DataConfig,
    target: DataConfig,
    trained: Protocol,
    *,
    split: str,
    cache: Path,
) -> dict[str, EvalSet]:
    manifest = resolve_manifest(target, cache=cache)
    if _source_of(source) == _source_of(target):
        # The training set is split again with the settings of the training. Another set keeps its splits.
        manifest = assign_splits(
            manifest,
            val_fraction=source.val_fraction,
            test_fraction=source.test_fraction,
            seed=source.split_seed,
        )
    if protocol == "zero_shot":
        return zero_shot(manifest, split=split).eval_sets
    return TRANSFERS[protocol](trained, manifest, split=split).eval_sets


def _trained_on(trained: Protocol, eval_set: EvalSet) -> frozenset[int]:
    """Return the rows whose videos were used for training or selection under another manifest."""
    used = [(part.manifest, part.rows) for part in (trained.train, trained.val) if part is not None]
    return refuse_training_overlap(
        used, eval_set.manifest, eval_set.rows, allow=eval_set.manifest.allow_leaks
    )


def _source_of(data: DataConfig) -> tuple[Any, ...]:
    return data.manifest, data.root, data.synthetic


def _trained(source: DataConfig, classes: tuple[str, ...], cache: Path) -> Protocol:
    """Return the protocol of the training, with its videos if their manifest still exists."""
    try:
        # Drawn again with the recorded seed: this gives the rows that the checkpoint was trained on.
        protocol = find_protocol(source, resolve_manifest(source, cache=cache))
    except ValueError as problem:
        log.warning("%s. Overlap between these videos and the training videos is not checked.", problem)
        return already_trained(classes)
    # The checkpoint's own order of classes decides the columns of its logits.
    return dataclasses.replace(protocol, classes=classes)
