"""Which factor goes with being right: a checkpoint's per-video answers against the factors of the videos.

For each factor, the area under the curve: the probability that the factor of a video that was answered
rightly is above that of one that was not. 0.5 says nothing; below, the factor is high where it fails. An
association, not a cause: factors go together with each other and with the classes.
"""

import csv
import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.effect_size import Estimate, area_under_curve

Rows = list[dict[str, str]]

_ABOUT_THE_VIDEO = ("path", "label")


@dataclasses.dataclass(frozen=True)
class Association:
    """A factor against the correctness of a predictor, over `right` + `wrong` videos."""

    predictor: str
    factor: str
    area: Estimate
    right: int
    wrong: int


def read_predictions(path: Path) -> Rows:
    """The rows of a predictions.csv as `evclip-ray evaluate` writes it.

    Raises:
        ValueError: no rows, or a column that is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, restval=""))
    except UnicodeDecodeError:
        raise ValueError(f"{path}: must be a UTF-8 CSV; give the predictions.csv of an evaluation") from None
    missing = [name for name in _ABOUT_THE_VIDEO if not rows or name not in rows[0]]
    if missing or not predictors(rows):
        raise ValueError(
            f"{path}: must have rows with the columns path, label and an answer or more, as in zero_shot;"
            f" missing: {', '.join(missing) or 'an answer'}."
            " Give the predictions.csv that `evclip-ray evaluate` writes"
        )
    return rows


def predictors(predictions: Rows) -> list[str]:
    """The columns that hold answers: adapted and zero_shot, or what was evaluated."""
    return [name for name in predictions[0] if name and name not in _ABOUT_THE_VIDEO]


def matched(predictions: Rows, paths: Sequence[str]) -> list[tuple[int, int]]:
    """(row of `predictions`, position in `paths`) of each video that is in both.

    Parts of one long video share its path, and are told apart by their order; where the two do not hold
    equally many of them, the order says nothing and all of them are left out.
    """
    predicted, held = _places([row["path"] for row in predictions]), _places(paths)
    return [
        pair
        for path, rows in predicted.items()
        if len(rows) == len(held.get(path, ()))
        for pair in zip(rows, held[path], strict=True)
    ]


def associate(
    predictions: Rows,
    pairs: Sequence[tuple[int, int]],
    factors: Mapping[str, NDArray[np.float64]],
    units: Sequence[str],
    *,
    seed: int,
) -> list[Association]:
    """Every factor, a value for each video, against every predictor, over the videos of `pairs`."""
    rows = [predictions[row] for row, _ in pairs]
    places = np.array([place for _, place in pairs], dtype=np.int64)
    chosen = [units[place] for place in places]
    found = []
    for predictor in predictors(predictions):
        right = np.array([row[predictor] == row["label"] for row in rows])
        for factor, values in factors.items():
            area = area_under_curve(values[places], right, units=chosen, seed=seed)
            found.append(Association(predictor, factor, area, int(right.sum()), int((~right).sum())))
    return found


def _places(paths: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, path in enumerate(paths):
        places[path].append(place)
    return places
