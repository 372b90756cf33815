"""Plan of an evaluation: the evaluation sets of a protocol, and the views of each video.

An evaluation set has its own classes. If all of them were trained, the checkpoint predicts among all its
classes and the columns of the set are selected. Otherwise the method is built again with the names of the
set, which requires that no trained tensor belongs to a class.
"""

import dataclasses
import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError, nearest
from evclip_ray.data.manifest.manifest import SPLITS, Manifest
from evclip_ray.data.manifest.protocols import EVALUATIONS, TRANSFERS, EvalSet, already_trained, zero_shot
from evclip_ray.data.manifest.row_record import USES, RowRecord, refuse_used
from evclip_ray.data.manifest.splits import assign_splits
from evclip_ray.formatting import counted
from evclip_ray.metrics.multi_view import EvaluationViews
from evclip_ray.training.build import zero_shot_of
from evclip_ray.training.checkpoint import ROWS, read_record
from evclip_ray.training.class_text_check import check_class_texts
from evclip_ray.training.experiment import DataConfig, ExperimentConfig
from evclip_ray.training.selection import find_protocol, find_selection
from evclip_ray.training.video_lists import check_videos, list_videos, resolve_manifest
from evclip_ray.training.video_plan import VideoPlan, plan_videos

log = logging.getLogger(__name__)

_MOVED_SAMPLE = 200
_ROLES = {"train": "trained", "val": "selected"}


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
        num_listed: Number of videos in the list.
        is_whole: Whether the list has no splits and was not the training's, so that all videos are read.
        is_training_list: Whether the list is that of the training.
    """

    checkpoint: Path
    experiment: ExperimentConfig
    trained: tuple[str, ...]
    protocol: str
    split: str
    views: EvaluationViews
    plans: dict[str, VideoPlan]
    num_listed: int = 0
    is_whole: bool = False
    is_training_list: bool = True

    def extent(self, name: str) -> str:
        """Return one line about how many of the listed videos an evaluation set reads."""
        plan = self.plans[name]
        kind = "the list has no splits" if self.is_whole else f"the {self.split!r} split"
        return (
            f"{len(plan.rows[self.split])} of {counted(self.num_listed, 'video')} of {plan.manifest.source} "
            f"({kind})"
        )


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
        ConfigError: The protocol or the split is unknown.
        ArtifactError: The folder is not a checkpoint or has no validation videos to score, or a closed set
            has labels that were not trained.
        ValueError: A condition of the protocol does not hold, or videos were used for training or selection
            under another manifest.
    """
    if protocol not in EVALUATIONS:
        raise ConfigError(f"protocol {protocol!r} is unknown; {nearest(protocol, list(EVALUATIONS))}")
    if split not in SPLITS:
        raise ConfigError(f"split {split!r} is unknown; {nearest(split, list(SPLITS))}")
    views = views or EvaluationViews()
    record = read_record(checkpoint)
    recorded = ExperimentConfig.load(record["experiment"])
    # `recorded` has the videos of the training, `experiment` those of the evaluation.
    experiment = ExperimentConfig.load(record["experiment"], overrides)
    trained = composed_classes(record["classes"])
    listed = list_videos(experiment, cache=cache, allow_same_labels=True)
    is_same_list = is_training_list(checkpoint, recorded.data, experiment.data, listed)
    # The zero-shot protocol scores no checkpoint; it needs the splits of the training alone.
    needs_rows = protocol != "zero_shot" or is_same_list
    used = _training_rows(checkpoint, recorded.data, cache) if needs_rows else None
    # Old videos keep the split of the training. Other split settings are a request for another draw.
    is_same_draw = is_same_list and _split_rule(recorded.data) == _split_rule(experiment.data)
    has_record = (checkpoint / ROWS).is_file()
    # A study may have taken over a list with other paths after the training.
    known = used.with_paths_of(listed) if used is not None and is_same_draw and has_record else None
    trained_on_all = used is not None and not used.has_validation
    # A list may have got validation videos later, which the checkpoint has not seen.
    if is_same_draw and trained_on_all and split == "val" and "val" not in listed.splits():
        raise ArtifactError(
            f"{checkpoint}: has no validation videos, because it trained on all of them "
            "(data.selection=last_epoch). A study scores such a run by cross-validation, in its "
            "leaderboard.csv. Choose --split test."
        )
    legacy = is_same_draw and not has_record
    if protocol == "closed_set":
        plan = plan_videos(
            experiment,
            cache=cache,
            splits=(split,),
            recorded=known,
            legacy=legacy,
            # A split drawn from other videos than the training's would leave most of them out.
            whole_if_unmarked=not is_same_list,
        )
        refuse_unknown_classes(checkpoint, plan.classes, trained)
        # With the classes of the checkpoint: a split may lack some of them, and the columns must stay the
        # same.
        eval_sets = {split: EvalSet(plan.manifest, plan.rows[split], trained)}
    else:
        manifest = _split_as_trained(listed, experiment.data, known) if is_same_draw else listed
        if protocol == "zero_shot":
            eval_sets = zero_shot(manifest, split=split).eval_sets
        else:
            eval_sets = TRANSFERS[protocol](already_trained(trained), manifest, split=split).eval_sets
        for eval_set in eval_sets.values():
            check_videos(experiment, eval_set.manifest, {split: eval_set.rows})
    if protocol == "zero_shot":
        used = None
    # The validation and training splits are scored on request only, and every video of them was used.
    elif is_same_list and split in USES and used is not None and not (split == "val" and trained_on_all):
        log.warning("the %r split %s this checkpoint: its numbers are too good", split, _ROLES[split])
        used = None
    plans = {
        name: VideoPlan(
            eval_set.manifest,
            {split: eval_set.rows},
            eval_set.classes,
            experiment.view,
            {split: views.temporal},
            spread=views.temporal > 1,
            trained_on=_trained_on(used, eval_set),
            seconds_per_video=experiment.data.seconds_per_video,
        )
        for name, eval_set in eval_sets.items()
    }
    # Only zero-shot CLIP is scored where no checkpoint is.
    scored = zero_shot_of(experiment) if protocol == "zero_shot" else experiment
    for plan in plans.values():
        check_class_texts([scored], plan.classes)
    is_whole = not listed.splits() and not is_same_list
    return EvaluationPlan(
        checkpoint, experiment, trained, protocol, split, views, plans, len(listed), is_whole, is_same_list
    )


def refuse_unknown_classes(checkpoint: Path, classes: tuple[str, ...], trained: tuple[str, ...]) -> None:
    """Raise an error if videos have classes that a checkpoint was not trained on.

    Args:
        checkpoint: Folder of the checkpoint.
        classes: Classes of the videos.
        trained: Classes of the checkpoint.

    Raises:
        ArtifactError: There are such classes.
    """
    unknown = sorted(set(classes) - set(trained))
    if unknown:
        raise ArtifactError(
            f"{checkpoint}: was trained on {counted(len(trained), 'class')}, but the videos have "
            f"{counted(len(unknown), 'other class')} ({', '.join(unknown[:5])}). Give videos of the trained "
            "classes, or choose another protocol, for example --protocol cross_dataset."
        )


def _split_as_trained(manifest: Manifest, data: DataConfig, known: RowRecord | None) -> Manifest:
    """Return the list of the training with its splits, drawn as by earlier versions without a record."""
    return assign_splits(
        manifest,
        val_fraction=data.val_fraction,
        test_fraction=data.test_fraction,
        seed=data.split_seed,
        hold_out_val=find_selection(data, manifest, recorded=known, legacy=known is None) != "last_epoch",
        recorded=None if known is None else known.assignment(),
        legacy=known is None,
    )


def _trained_on(used: RowRecord | None, eval_set: EvalSet) -> frozenset[int]:
    """Return the rows whose videos were used for training or selection, if leaks are allowed."""
    if used is None:
        return frozenset()
    return refuse_used(used, eval_set.manifest, eval_set.rows, allow=eval_set.manifest.allow_leaks)


def composed_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return class names in Unicode's form NFC, as labels of a manifest are.

    Versions before 0.2 kept the form of the list. If two classes differed in nothing else, they stay apart.
    """
    composed = tuple(unicodedata.normalize("NFC", name) for name in classes)
    return composed if len(set(composed)) == len(composed) else tuple(classes)


def is_training_list(checkpoint: Path, recorded: DataConfig, given: DataConfig, listed: Manifest) -> bool:
    """Return whether the videos are those of the training, also after they were moved to another folder.

    Args:
        checkpoint: Folder of the checkpoint.
        recorded: Data section of the training.
        given: Data section of the evaluation.
        listed: List of videos of the evaluation.
    """
    if _source_of(recorded) == _source_of(given):
        return True
    if not (checkpoint / ROWS).is_file():
        return False
    record = RowRecord.read(checkpoint / ROWS)
    used = set(record.table.filter(pc.is_valid(record.table["use"]))["path"].to_pylist())
    rows = np.array([row for row, path in enumerate(listed.column("path")) if path in used], np.int64)
    # Names such as 1.mp4 are in many lists, so contents are compared too, of a sample spread over the videos.
    if not used.issubset(listed.column("path")) or not len(rows):
        return False
    sample = rows[np.unique(np.linspace(0, len(rows) - 1, num=_MOVED_SAMPLE).astype(int))]
    return len(record.overlap(listed, sample)) == len(sample)


def _source_of(data: DataConfig) -> tuple[Any, ...]:
    return data.manifest, data.root, data.world, data.synthetic


def _split_rule(data: DataConfig) -> tuple[Any, ...]:
    return data.split_seed, data.val_fraction, data.test_fraction


def _training_rows(checkpoint: Path, data: DataConfig, cache: Path) -> RowRecord | None:
    """Return the rows that trained and selected a checkpoint, None if they are not known."""
    if (checkpoint / ROWS).is_file():
        return RowRecord.read(checkpoint / ROWS)
    try:
        # Drawn again with the recorded seed: this gives the rows of the training if the list is unchanged.
        protocol = find_protocol(data, resolve_manifest(data, cache=cache), legacy=True)
    except ValueError as problem:
        log.warning("%s. Overlap between these videos and the training videos is not checked.", problem)
        return None
    log.warning(
        "%s has no record of its videos: it was imported, or an earlier version wrote it. Its training "
        "videos are taken from the list as it is now.",
        checkpoint,
    )
    used = {"train": protocol.train, "val": protocol.val}
    rows = {use: part.rows for use, part in used.items() if part is not None}
    # All parts of a protocol are rows of one manifest.
    assert protocol.train is not None
    return RowRecord.of(protocol.train.manifest, rows)
