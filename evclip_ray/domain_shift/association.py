"""Association of visual and semantic factors with correct predictions of a checkpoint.

The measure is the area under the ROC curve: the probability that the factor of a correctly predicted video is
above that of a wrongly predicted one. At 0.5 there is no association. Below 0.5, the factor is high where
predictions fail. It is an association, not a cause: factors depend on each other and on the classes.
"""

import csv
import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evclip_ray.metrics.effect_size import Estimate, area_under_curve
from evclip_ray.metrics.mask_quality import COLUMNS
from evclip_ray.metrics.paired import GROUP

Rows = list[dict[str, str]]

_ABOUT_THE_VIDEO = ("path", "label")


@dataclasses.dataclass(frozen=True)
class Association:
    """Association of a factor with the predictions of a predictor, over `right` + `wrong` videos."""

    predictor: str
    factor: str
    area: Estimate
    right: int
    wrong: int


def read_predictions(path: Path) -> Rows:
    """Return the rows of a predictions.csv from `evclip-ray evaluate`.

    Raises:
        ValueError: There are no rows, or a column is missing.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            # A short row gets empty cells, which count as wrong, instead of None.
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
    """Return the columns that contain predictions, such as adapted and zero_shot."""
    others = (*_ABOUT_THE_VIDEO, *COLUMNS, GROUP)
    return [name for name in predictions[0] if name and name not in others]


def matched(predictions: Rows, paths: Sequence[str]) -> list[tuple[int, int]]:
    """Return (row of `predictions`, position in `paths`) of each video that is in both.

    Parts of one long video share its path and are matched by their order. If the number of parts differs, the
    order is unknown and all of them are left out.
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
    """Return the association of every factor with every predictor.

    Args:
        predictions: Rows of `read_predictions`.
        pairs: Matches of `matched`. Other videos are ignored.
        factors: Name -> (M,) values.
        units: (M,) unit of each video, see `effect_size`.
        seed: Seed of the bootstrap.
    """
    rows = [predictions[row] for row, _ in pairs]
    places = np.array([place for _, place in pairs], dtype=np.int64)
    chosen = [units[place] for place in places]
    associations = []
    for predictor in predictors(predictions):
        # Both columns hold class names, so no indices of classes need to match.
        right = np.array([row[predictor] == row["label"] for row in rows])
        for factor, values in factors.items():
            area = area_under_curve(values[places], right, units=chosen, seed=seed)
            associations.append(Association(predictor, factor, area, int(right.sum()), int((~right).sum())))
    return associations


def _places(paths: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, path in enumerate(paths):
        places[path].append(place)
    return places
