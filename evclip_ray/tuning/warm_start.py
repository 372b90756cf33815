"""Warm start of a study from an earlier one: its best points are run first, its trials inform the sampler.

A trial of the earlier study is evidence if this study would run the same experiment at that point, apart from
the seed: the same settings on the same rows of the same splits. The sampler learns from evidence as from its
own trials, but evidence is neither counted nor listed. From all other trials only the best points that lie in
this space are used, even if they were measured on other videos.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, TrialState

from evclip_ray.artifacts import LEDGER, digest, read_json
from evclip_ray.config import ConfigError, flatten
from evclip_ray.formatting import counted
from evclip_ray.records import TrialState as State
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.video_plan import VideoPlan
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.leaderboard import leaderboard
from evclip_ray.tuning.optuna_storage import EVIDENCE
from evclip_ray.tuning.search_space import SearchSpace, without_seed
from evclip_ray.tuning.study_folder import StudyFolder
from evclip_ray.tuning.study_view import trial_experiment

POINT = "warm_point"
"""User attribute of a trial whose point came from an earlier study."""
_SOURCES = ("data.manifest", "data.root", "data.world", "data.synthetic")
Measured = Callable[[ExperimentConfig], str]
"""Function that returns the digest of an experiment's data, see `measured_on`."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Earlier trial as a trial of this space: `overrides` with its seed, `values` by epoch."""

    trial: str
    overrides: dict[str, Any]
    values: dict[int, float]
    stopped: bool


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """Points and evidence from an earlier study.

    Attributes:
        folder: Folder of the earlier study.
        key: Its digest.
        points: Points to run first, the best one first.
        evidence: Trials that inform the sampler.
        left_out: Number of other trials, by reason.
    """

    folder: str
    key: str
    points: tuple[dict[str, Any], ...]
    evidence: tuple[Evidence, ...]
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        trials = len(self.evidence) + sum(self.left_out.values())
        evidence = f"{len(self.evidence)} of its {counted(trials, 'trial')} as evidence" + (
            f" ({why})" if why else ""
        )
        return f"{self.folder}: its {counted(len(self.points), 'best point')} first; {evidence}"

    def record(self) -> dict[str, Any]:
        """Return the record for the ledger."""
        return {
            "folder": self.folder,
            "study": self.key,
            "points": list(self.points),
            "evidence": len(self.evidence),
            "left_out": dict(self.left_out),
        }


def measured_on(plan: VideoPlan) -> str:
    """Return the digest of the rows of each split, the classes and the folds, on which scores depend."""
    rows = {split: plan.manifest.select(chosen).digest() for split, chosen in plan.rows.items()}
    # The key is added only with folds, so that the digests of earlier studies stay equal.
    folds = {"folds": plan.folds} if plan.folds else {}
    return digest({"classes": plan.classes, "rows": rows, **folds})


def read_warm_start(root: Path, space: SearchSpace, *, measured: Measured, most_points: int) -> WarmStart:
    """Read the points and the evidence that a study of `space` may use.

    Args:
        root: Folder of the earlier study.
        space: Search space of the new study.
        measured: Digest of an experiment's data.
        most_points: Largest number of points.

    Raises:
        ConfigError: `root` is not the folder of a study.
        ArtifactError: `root` belongs to another stage.
    """
    folder = StudyFolder(root)
    if not (root / LEDGER).is_file():
        raise ConfigError(f"--warm-start {root}: must be the folder of an earlier study, but has no {LEDGER}")
    ledger, fixed = folder.ledger(), read_json(folder.fixed)
    # Values of this study's objective: the sampler compares them with those of its own trials.
    trials = [dataclasses.replace(trial, objective=space.study.objective) for trial in folder.trials()]
    values = {trial.trial: trial.values_by_epoch for trial in trials}
    points: dict[str, dict[str, Any]] = {}
    evidence, left_out = [], collections.Counter[str]()
    for row in leaderboard(trials):
        if not row.state.has_final_score:
            left_out["not finished"] += 1
            continue
        # Compared as complete experiments: the two spaces may fix and search different settings.
        theirs = trial_experiment(fixed, row.overrides)
        try:
            point = space.point_of(flatten(theirs.model_dump(mode="json")))
            ours = space.experiment(point)
        except ValueError:
            left_out["outside of this space"] += 1
            continue
        # Rows come best first, so the first row of a point has its best seed.
        points.setdefault(digest(without_seed(point)), point)
        reason = _differs(ours, theirs, measured=measured, recorded=ledger.get("measured", {}))
        if reason:
            left_out[reason] += 1
            continue
        evidence.append(
            Evidence(row.trial, {**point, "seed": theirs.seed}, values[row.trial], row.state is State.STOPPED)
        )
    best = tuple(points.values())[:most_points]
    return WarmStart(str(root), ledger["key"], best, tuple(evidence), left_out)


def _differs(
    ours: ExperimentConfig, theirs: ExperimentConfig, *, measured: Measured, recorded: Mapping[str, str]
) -> str | None:
    """Return the reason why an earlier trial is not evidence, or None if it is."""
    rows = recorded.get(videos_key(theirs))
    if rows != measured(ours):
        return "measured on other videos" if rows else "whose videos were not written down"
    kinds = [
        {path: value for path, value in flatten(e.model_dump(mode="json")).items() if not _is_ignored(path)}
        for e in (ours, theirs)
    ]
    return "of other settings" if kinds[0] != kinds[1] else None


def _is_ignored(path: str) -> bool:
    return path == "seed" or path.startswith(_SOURCES)


def apply_warm_start(study: optuna.Study, space: SearchSpace, warm_start: WarmStart) -> None:
    """Add the evidence to the sampler and enqueue the points first. Earlier additions are skipped.

    Args:
        study: Optuna study.
        space: Search space.
        warm_start: Points and evidence.
    """
    # A kill during an earlier call may have left a part of the additions in the journal.
    known = {mark for trial in study.trials for mark in _marks(trial.user_attrs)}
    for piece in warm_start.evidence:
        mark = (warm_start.folder, piece.trial)
        if mark not in known:
            study.add_trial(_as_trial(piece, space, warm_start.folder))
    for rank, point in enumerate(warm_start.points):
        if (warm_start.folder, rank) not in known:
            study.enqueue_trial(
                space.params_of(point), user_attrs={POINT: {"study": warm_start.folder, "rank": rank}}
            )


def _marks(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if EVIDENCE in attributes:
        yield attributes[EVIDENCE]["study"], attributes[EVIDENCE]["trial"]
    if POINT in attributes:
        yield attributes[POINT]["study"], attributes[POINT]["rank"]


def _as_trial(piece: Evidence, space: SearchSpace, study: str) -> optuna.trial.FrozenTrial:
    point = FixedTrial(space.params_of(space.point_of({**flatten(space.fixed), **piece.overrides})))
    # FixedTrial returns the given values and records the distribution of each path on the way.
    space.sample(point)
    attributes = {EVIDENCE: {"study": study, "trial": piece.trial, "overrides": piece.overrides}}
    return optuna.trial.create_trial(
        # A stopped trial has no final value. TPE uses its intermediate values, as for pruned trials of this
        # study.
        state=TrialState.PRUNED if piece.stopped else TrialState.COMPLETE,
        value=None if piece.stopped else piece.values[max(piece.values)],
        params=point.params,
        distributions=point.distributions,
        intermediate_values=piece.values,
        user_attrs=attributes,
    )
