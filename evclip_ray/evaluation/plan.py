"""Which videos a checkpoint is read on: a protocol's sides, and the views of each video.

A side has classes of its own. Where they are among those that were trained, the checkpoint answers
among all that it knows and the side's columns are kept; else the method is built anew on the side's
names, which methods allow whose trained tensors belong to no class.
"""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from evclip_ray.artifacts import ArtifactError
from evclip_ray.config import ConfigError, nearest
from evclip_ray.data.manifest.leaks import refuse_seen
from evclip_ray.data.manifest.protocols import TRANSFERS, Protocol, Side, already_trained, zero_shot
from evclip_ray.data.manifest.splits import assign_splits
from evclip_ray.metrics.multi_view import EvaluationViews
from evclip_ray.training.checkpoint import read_record
from evclip_ray.training.datamodule import VideoPlan, find_protocol, plan_videos, resolve_manifest
from evclip_ray.training.experiment import DataConfig, ExperimentConfig

log = logging.getLogger(__name__)

PROTOCOLS = ("closed_set", "zero_shot", *TRANSFERS)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a checkpoint will be scored on: `plans` has the videos of each side of the protocol."""

    checkpoint: Path
    experiment: ExperimentConfig
    trained: tuple[str, ...]
    protocol: str
    split: str
    views: EvaluationViews
    plans: dict[str, VideoPlan]


def plan_reading(
    checkpoint: Path,
    overrides: dict[str, Any],
    *,
    split: str,
    cache: Path,
    protocol: str = "closed_set",
    views: EvaluationViews | None = None,
) -> Reading:
    """Choose the videos of each side.

    Raises:
        ConfigError: a protocol that there is not.
        ArtifactError: not a checkpoint, or a closed set with labels that it was not trained for.
        ValueError: see the protocol; or videos that are read were trained on, as another manifest has them.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r} is unknown; {nearest(protocol, list(PROTOCOLS))}")
    views = views or EvaluationViews()
    record = read_record(checkpoint)
    recorded = ExperimentConfig.load(record["experiment"])
    experiment = ExperimentConfig.load(record["experiment"], overrides)
    trained = tuple(record["classes"])
    elsewhere = _place(recorded.data) != _place(experiment.data)
    checked = elsewhere and protocol != "zero_shot"
    source = (
        _trained(recorded.data, trained, cache)
        if checked or protocol in TRANSFERS
        else already_trained(trained)
    )
    if protocol == "closed_set":
        plan = plan_videos(experiment, cache=cache, splits=(split,))
        _refuse_unknown(checkpoint, plan.classes, trained)
        sides = {split: Side(plan.manifest, plan.rows[split], trained)}
    else:
        sides = _transfer(protocol, recorded.data, experiment.data, source, split=split, cache=cache)
    plans = {
        name: VideoPlan(
            side.manifest, {split: side.rows}, side.classes, experiment.view, {split: views.temporal},
            spread=views.temporal > 1,
            trained_on=_trained_on(source, side) if checked else frozenset(),
            seconds_per_video=experiment.data.seconds_per_video,
        )
        for name, side in sides.items()
    }  # fmt: skip
    return Reading(checkpoint, experiment, trained, protocol, split, views, plans)


def _refuse_unknown(checkpoint: Path, classes: tuple[str, ...], trained: tuple[str, ...]) -> None:
    unknown = sorted(set(classes) - set(trained))
    if unknown:
        raise ArtifactError(
            f"{checkpoint}: was trained for {len(trained)} classes; the videos have {len(unknown)} others"
            f" ({', '.join(unknown[:5])}); give videos of its own classes, or read them by another protocol,"
            " for example --protocol cross_dataset"
        )


def _transfer(
    protocol: str,
    source: DataConfig,
    target: DataConfig,
    trained: Protocol,
    *,
    split: str,
    cache: Path,
) -> dict[str, Side]:
    manifest = resolve_manifest(target, cache=cache)
    if _place(source) == _place(target):
        # The set that it was trained on is split as it was then; another one is read as it comes.
        manifest = assign_splits(
            manifest, val_fraction=source.val_fraction, test_fraction=source.test_fraction,
            seed=source.split_seed,
        )  # fmt: skip
    if protocol == "zero_shot":
        return zero_shot(manifest, split=split).read
    return TRANSFERS[protocol](trained, manifest, split=split).read


def _trained_on(trained: Protocol, side: Side) -> frozenset[int]:
    """The rows of a side that were trained or selected on, as another manifest lists them."""
    seen = [(found.manifest, found.rows) for found in (trained.train, trained.select) if found is not None]
    return refuse_seen(seen, side.manifest, side.rows, allow=side.manifest.allow_leaks)


def _place(data: DataConfig) -> tuple[Any, ...]:
    return data.manifest, data.root, data.synthetic


def _trained(source: DataConfig, classes: tuple[str, ...], cache: Path) -> Protocol:
    """What a checkpoint was trained on, its videos too where their manifest is still there."""
    try:
        found = find_protocol(source, resolve_manifest(source, cache=cache))
    except ValueError as problem:
        log.warning("%s; so whether a video that is read was trained on is not checked", problem)
        return already_trained(classes)
    return dataclasses.replace(found, classes=classes)
