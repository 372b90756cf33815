"""Facts of a model card: scores on validation and test videos, and counts of the videos behind them.

They are read from the files of the checkpoint and from those next to it: the leaderboard of its study, the
zero-shot baseline of its run and the folders of its evaluations.
"""

import csv
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from evclip_ray.artifacts import LEDGER, ArtifactError, read_json, read_ledger
from evclip_ray.data.manifest.row_record import USES, RowRecord
from evclip_ray.evaluation.of_checkpoint import has_training_data, is_evaluation_of
from evclip_ray.formatting import counted, shell
from evclip_ray.metrics.intervals import accuracy_interval
from evclip_ray.records import choice_lines
from evclip_ray.training.checkpoint import ROWS
from evclip_ray.training.per_video_scores import VideoScores

_SCORED = ("val_top1", "corrected_top1")


@dataclasses.dataclass(frozen=True)
class Score:
    """Top-1 on one set of videos, with a 95 % interval.

    Attributes:
        name: Set of videos, such as "validation" or "test, closed_set".
        videos: Number of videos.
        groups: Number of their groups; None if every video is a group of its own.
        adapted: Numbers of the checkpoint, as in the ledger of an evaluation.
        zero_shot: Numbers of zero-shot CLIP on the same views; None if they are not known.
        conditions: Precision, device and activation.
        note: What a reader must know about the number.
        is_test: Whether the videos neither trained nor selected the checkpoint.
    """

    name: str
    videos: int
    groups: int | None
    adapted: Mapping[str, Any]
    zero_shot: Mapping[str, Any] | None
    conditions: Mapping[str, str]
    note: str = ""
    is_test: bool = False


def validation_score(checkpoint: Path, record: Mapping[str, Any]) -> Score | None:
    """Return the score on the validation videos; None for a checkpoint without one."""
    scores = VideoScores.read(checkpoint)
    if scores is None:
        return None
    adapted = {
        "top1": float(scores.right.mean()),
        "top1_interval": accuracy_interval(scores.right, scores.groups),
        "log_loss": float(scores.log_loss.mean()),
    }
    groups = None if scores.groups is None else len(np.unique(scores.groups))
    return Score(
        "validation",
        len(scores.right),
        groups,
        adapted,
        _validation_baseline(checkpoint, record),
        record.get("conditions", {}),
    )


def evaluations_of(checkpoint: Path, record: Mapping[str, Any], folders: Sequence[Path] = ()) -> list[Score]:
    """Return the scores of a checkpoint's evaluations.

    Args:
        checkpoint: Folder of the checkpoint. `CHECKPOINT-SPLIT` next to it is where `evaluate` writes.
        record: Its `config.json`.
        folders: Folders of other evaluations.

    Raises:
        ArtifactError: A folder of `folders` has no evaluation of this checkpoint.
    """
    scores: dict[Path, Score] = {}
    for folder in sorted(checkpoint.parent.glob(f"{checkpoint.name}-*")):
        for path in _ledgers(folder):
            if (score := _read_evaluation(path, checkpoint, record)) is not None:
                scores[path.resolve()] = score
    for folder in folders:
        found = [_read_evaluation(path, checkpoint, record) for path in _ledgers(folder)]
        if not found or None in found:
            command = shell("evclip-ray", "evaluate", checkpoint)
            raise ArtifactError(f"{folder}: must be a folder of `{command}`")
        scores |= {
            path.resolve(): score for path, score in zip(_ledgers(folder), found, strict=True) if score
        }
    return list(scores.values())


def study_lines(checkpoint: Path, record: Mapping[str, Any]) -> list[str]:
    """Return how the best trial of a study was chosen; empty for a checkpoint that is not one."""
    row = _leaderboard_row(checkpoint, record)
    if row is None:
        return []
    lines = choice_lines(row)
    return [f"{name}: {score}" for name, score in lines.items()]


def video_counts(checkpoint: Path) -> dict[str, tuple[int, int]]:
    """Return use -> number of videos and of their groups; empty without a record of the videos."""
    if not (checkpoint / ROWS).is_file():
        return {}
    table = RowRecord.read(checkpoint / ROWS).table
    counts = {}
    for use in USES:
        used = table.filter(pc.equal(table["use"], use))
        groups = pc.coalesce(used["group"], used["path"])
        if len(used):
            counts[use] = (len(used), len(pc.unique(groups)))
    return counts


def _validation_baseline(checkpoint: Path, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    key = record.get("rows", {}).get("val")
    run = checkpoint.parent
    for path in (run / "zero_shot.json", *sorted((run / "zero_shot").glob("*.json"))):
        numbers = read_json(path) if path.is_file() else {}
        clip = numbers.get("weights", {}).get("clip")
        if key is not None and numbers.get("rows") == key and clip == record["weights"]["clip"]:
            return dict(numbers)
    return None


def _leaderboard_row(checkpoint: Path, record: Mapping[str, Any]) -> dict[str, Any] | None:
    path = checkpoint.parent / "leaderboard.csv"
    if checkpoint.name != "best" or not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as stream:
        first = next(csv.DictReader(stream), None)
    if first is None or "chosen_from" not in first:
        return None
    # Missing numbers are empty.
    row = {
        name: float(first[name] or math.nan) if name.startswith(_SCORED) else first[name] for name in first
    }
    best = record.get("progress", {}).get("best_top1", math.nan)
    # A running study may have replaced one of the two.
    return row if abs(row["val_top1"] - best) < 1e-4 else None


def _ledgers(folder: Path) -> list[Path]:
    paths: Iterator[Path] = (path for pattern in (LEDGER, f"*/{LEDGER}") for path in folder.glob(pattern))
    return sorted(paths)


def _read_evaluation(path: Path, checkpoint: Path, record: Mapping[str, Any]) -> Score | None:
    try:
        ledger = read_ledger(path.parent, "evaluation")
    except ArtifactError:  # the ledger of another stage
        return None
    inputs, adapted = ledger["inputs"], ledger.get("adapted")
    if adapted is None or not is_evaluation_of(ledger, checkpoint, record):
        return None
    same = has_training_data(ledger, record)
    views = inputs.get("views", {})
    notes = [
        "the data of the training" if same else "other videos than those of the training",
        f"{views.get('temporal', 1)} x {counted(views.get('spatial', 1), 'view')}",
        f"opened {counted(ledger.get('openings', 1), 'time')}",
    ]
    # Other videos than those of the training are refused if one of them was used.
    is_test = inputs["split"] == "test" or not same
    if not is_test:
        notes.append("these videos were used for the checkpoint, so that the number is optimistic")
    if leaking := ledger["counts"].get("leaking_rows"):
        notes.append(f"LEAKS affect {counted(leaking, 'video')}: the number is too high")
    name = inputs["split"] if inputs["side"] == inputs["split"] else f"{inputs['split']}, {inputs['side']}"
    protocol = "" if inputs["protocol"] == "closed_set" else f", {inputs['protocol']}"
    return Score(
        f"{name}{protocol}",
        ledger["counts"]["videos"],
        adapted.get("groups"),
        adapted,
        ledger["zero_shot"],
        ledger.get("conditions", {}),
        "; ".join(notes),
        is_test=is_test,
    )
