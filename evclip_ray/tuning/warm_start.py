"""Starting a study from an earlier one: its best points are run first, its trials are evidence.

A trial of the earlier study is evidence where this study would run the very same thing at that
point: the same experiment but for the seed, on the same rows of the same manifest in the same
splits. The sampler then learns from it as from a trial of its own; nothing counts it, and it is in
no table. Any other trial only says where to look: the best points that lie in this space, whatever
they were measured on, are run first.
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
from evclip_ray.training.datamodule import VideoPlan
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.zero_shot import videos_key
from evclip_ray.tuning.leaderboard import MEASURED, leaderboard
from evclip_ray.tuning.optuna_storage import EVIDENCE
from evclip_ray.tuning.search_space import SearchSpace, without_seed
from evclip_ray.tuning.study_folder import StudyFolder

POINT = "warm_point"
"""The user attribute of a trial whose point came from an earlier study."""
_SOURCES = ("data.manifest", "data.root", "data.synthetic")
Measured = Callable[[ExperimentConfig], str]
"""The digest of what an experiment is measured on, see `measured_on`."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """An earlier trial as one of this space: `overrides` with its seed; `values`: epoch -> objective."""

    trial: str
    overrides: dict[str, Any]
    values: dict[int, float]
    stopped: bool


@dataclasses.dataclass(frozen=True)
class WarmStart:
    """What is taken of an earlier study. `points`: best first; `left_out`: reason -> trials."""

    folder: str
    key: str
    points: tuple[dict[str, Any], ...]
    evidence: tuple[Evidence, ...]
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items()))
        trials = len(self.evidence) + sum(self.left_out.values())
        said = f"{len(self.evidence)} of its {trials} trials as evidence" + (f" ({why})" if why else "")
        return f"{self.folder}: its {len(self.points)} best points first; {said}"

    def record(self) -> dict[str, Any]:
        """What the ledger says of it."""
        return {
            "folder": self.folder, "study": self.key, "points": list(self.points),
            "evidence": len(self.evidence), "left_out": dict(self.left_out),
        }  # fmt: skip


def measured_on(plan: VideoPlan) -> str:
    """The digest of what a score hangs on beside the settings: the rows of each split, and the classes."""
    rows = {split: plan.manifest.select(chosen).digest() for split, chosen in plan.rows.items()}
    return digest({"classes": plan.classes, "rows": rows})


def read_warm_start(root: Path, space: SearchSpace, *, measured: Measured, most_points: int) -> WarmStart:
    """What a study of `space` may take from the study in `root`.

    Raises:
        ConfigError: `root` is not a study's folder.
        ArtifactError: it is another stage's.
    """
    folder = StudyFolder(root)
    if not (root / LEDGER).is_file():
        raise ConfigError(f"--warm-start {root}: must be the folder of an earlier study, it has no {LEDGER}")
    ledger, fixed = folder.ledger(), read_json(folder.fixed)
    history = {trial["trial"]: trial["history"] for trial in folder.trials()}
    points: dict[str, dict[str, Any]] = {}
    evidence, left_out = [], collections.Counter[str]()
    for row in leaderboard(folder.trials()):
        if row["state"] not in MEASURED:
            left_out["not finished"] += 1
            continue
        theirs = ExperimentConfig.load(fixed, row["overrides"])
        try:
            point = space.point_of(flatten(theirs.model_dump(mode="json")))
            ours = space.experiment(point)
        except ValueError:
            left_out["outside of this space"] += 1
            continue
        points.setdefault(digest(without_seed(point)), point)
        reason = _differs(ours, theirs, measured=measured, recorded=ledger.get("measured", {}))
        if reason:
            left_out[reason] += 1
            continue
        values = {epoch["epoch"]: epoch["best_val_top1"] for epoch in history[row["trial"]]}
        evidence.append(
            Evidence(row["trial"], {**point, "seed": theirs.seed}, values, row["state"] == "stopped")
        )
    best = tuple(points.values())[:most_points]
    return WarmStart(str(root), ledger["key"], best, tuple(evidence), left_out)


def _differs(
    ours: ExperimentConfig, theirs: ExperimentConfig, *, measured: Measured, recorded: Mapping[str, str]
) -> str | None:
    """Why an earlier trial's score says nothing of ours, if that is so."""
    rows = recorded.get(videos_key(theirs))
    if rows != measured(ours):
        return "measured on other videos" if rows else "whose videos were not written down"
    kinds = [
        {path: value for path, value in flatten(e.model_dump(mode="json")).items() if not _is_aside(path)}
        for e in (ours, theirs)
    ]
    return "of other settings" if kinds[0] != kinds[1] else None


def _is_aside(path: str) -> bool:
    return path == "seed" or path.startswith(_SOURCES)


def apply_warm_start(study: optuna.Study, space: SearchSpace, found: WarmStart) -> None:
    """Give the evidence to the sampler and put the points in front; what is there already stays single."""
    known = {mark for trial in study.trials for mark in _marks(trial.user_attrs)}
    for piece in found.evidence:
        mark = (found.folder, piece.trial)
        if mark not in known:
            study.add_trial(_as_trial(piece, space, found.folder))
    for rank, point in enumerate(found.points):
        if (found.folder, rank) not in known:
            study.enqueue_trial(point, user_attrs={POINT: {"study": found.folder, "rank": rank}})


def _marks(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if EVIDENCE in attributes:
        yield attributes[EVIDENCE]["study"], attributes[EVIDENCE]["trial"]
    if POINT in attributes:
        yield attributes[POINT]["study"], attributes[POINT]["rank"]


def _as_trial(piece: Evidence, space: SearchSpace, study: str) -> optuna.trial.FrozenTrial:
    point = FixedTrial(space.point_of({**flatten(space.fixed), **piece.overrides}))
    space.sample(point)
    attributes = {EVIDENCE: {"study": study, "trial": piece.trial, "overrides": piece.overrides}}
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if piece.stopped else TrialState.COMPLETE,
        value=None if piece.stopped else piece.values[max(piece.values)],
        params=point.params, distributions=point.distributions,
        intermediate_values=piece.values, user_attrs=attributes,
    )  # fmt: skip
