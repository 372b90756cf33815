"""Quality of a method's masks as detectors of the acting figure, against true masks.

A method has one mask m (S, S) for the T frames of a video. The true masks y (T, S, S) are those of the same
frames, cut to the same crop; a pixel belongs to the figure where a soft true mask is at least 0.5.

    average precision = sum_k (R_k - R_(k-1)) P_k
    pointing game     = mean_t mean_(i in M) y_ti
    base share        = mean_(t, i) y_ti

where
    k        distinct values of m, from high to low; the T S^2 pixels have their place's value in every frame
    P_k      share of the figure among the pixels whose value is at least the k-th
    R_k      share of the figure's pixels whose value is at least the k-th, R_0 = 0
    M        places at which m is largest; usually one
    t        frames that show the figure, for the pointing game; all T frames otherwise

A mask that is equal everywhere has the average precision of the base share, and so has random noise. Sources:
average precision as in `sklearn.metrics.average_precision_score`, without interpolation; the pointing game of
Zhang et al. (IJCV 2018, section 4.2), here per frame, with an average over tied places and without their
tolerance of 15 pixels. The mask is that which the method uses, without smoothing. Both numbers depend on the
order of the values only, so an affine map of the mask changes neither.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evclip_ray.data.manifest.manifest import Manifest
from evclip_ray.data.masks import Mask, MaskError
from evclip_ray.data.shards.dataset import ShardSet
from evclip_ray.data.shards.true_masks import TrueMasks
from evclip_ray.data.transfers import download
from evclip_ray.data.transforms import CROP_FRACTION, crop_batch
from evclip_ray.formatting import counted, sample_size
from evclip_ray.metrics.intervals import mean_interval
from evclip_ray.metrics.multi_view import EvaluationViews, ScoredView, score_views
from evclip_ray.models.batch import MethodOutput
from evclip_ray.models.methods.base import Method

Values = NDArray[np.float32]
Figure = NDArray[np.bool_]

_CENTRE = ScoredView(0, 0.5, CROP_FRACTION)

COLUMNS = ("mask_average_precision", "mask_base_share", "mask_pointing_game")
"""Columns of a table with one row per video, in the order of `VideoMaskQuality`."""


class VideoMaskQuality(NamedTuple):
    """Quality of the mask of one video, or means over videos. All values are 0 to 1."""

    average_precision: float
    base_share: float
    pointing_game: float


def average_precision(mask: Values, figure: Figure) -> float:
    """Return the average precision of a mask; NaN if no frame shows the figure.

    >>> mask = np.array([[0.9, 0.6], [0.6, 0.1]])
    >>> figure = np.array([[[1, 1], [0, 0]], [[1, 0], [0, 0]]], bool)
    >>> round(average_precision(mask, figure), 4)  # 2/3 * 2/2 + 1/3 * 3/6
    0.8333

    Args:
        mask: (S, S).
        figure: (T, S, S) true pixels of each frame.
    """
    num_frames = len(figure)
    # Every frame repeats the scores, so the S^2 places are sorted instead of the T S^2 pixels.
    hits = figure.reshape(num_frames, -1).sum(axis=0)
    order = np.argsort(-mask.ravel(), kind="stable")
    scores, true = mask.ravel()[order], np.cumsum(hits[order])
    if true[-1] == 0:
        return float("nan")
    # The last place of each value: a threshold takes in all pixels of one value at once.
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    precision = true[ends] / (num_frames * (ends + 1))
    recall = true[ends] / true[-1]
    return float(np.diff(recall, prepend=0.0) @ precision)


def pointing_game(mask: Values, figure: Figure) -> float:
    """Return the share of frames in which the mask's maximum is on the figure; NaN if no frame shows it.

    Args:
        mask: (S, S).
        figure: (T, S, S) true pixels of each frame.
    """
    showing = figure[figure.any(axis=(1, 2))]
    return float(showing[:, mask == mask.max()].mean()) if len(showing) else float("nan")


def video_mask_quality(mask: Values, figure: Figure) -> VideoMaskQuality:
    """Return the quality of a video's mask.

    Args:
        mask: (S, S).
        figure: (T, S, S) true pixels of each frame.
    """
    return VideoMaskQuality(
        average_precision(mask, figure), float(figure.mean()), pointing_game(mask, figure)
    )


def figure_of(true_masks: Mask, size: int, view: ScoredView = _CENTRE) -> Figure:
    """Return the figure in a crop of the stored frames, (T, size, size).

    Args:
        true_masks: (T, H, W) from 0 to 255, at the size of the stored frames.
        size: Side of the crop in pixels.
        view: Crop; by default the centre crop of the evaluation.
    """
    # The crop of pixels is reused, so that a mask and its frames cannot be cut differently.
    planes = torch.from_numpy(np.repeat(true_masks[None, ..., None], 3, axis=-1))
    cropped = crop_batch(planes, size=size, position=view.position, share=view.share)
    figure: Figure = (cropped[0, :, 0] >= 0.5).numpy()
    return figure


@dataclasses.dataclass(frozen=True)
class MaskQuality:
    """Quality of the masks of a set of videos.

    Attributes:
        by_video: (V, 3) `VideoMaskQuality` of each video, a mean over its views; NaN where it is not known.
        num_named: Number of videos whose row in the manifest names a mask.
        skipped: Videos with a mask that could not be compared: `row`, `path`, `reason`.
    """

    by_video: NDArray[np.float64]
    num_named: int
    skipped: list[dict[str, Any]]

    @property
    def is_scored(self) -> NDArray[np.bool_]:
        """(V,) whether each video was compared with its true mask."""
        # The sum is NaN if one value is.
        scored: NDArray[np.bool_] = np.isfinite(self.by_video.sum(axis=1))
        return scored

    @property
    def mean(self) -> VideoMaskQuality:
        """Means over the compared videos; NaN without any."""
        scored = self.by_video[self.is_scored]
        return VideoMaskQuality(*(scored.mean(axis=0).tolist() if len(scored) else [float("nan")] * 3))

    def record(self, groups: NDArray[np.int64] | None = None) -> dict[str, Any]:
        """Return the numbers for a result file: counts, means over videos, and 95 % intervals.

        Args:
            groups: (V,) number of each video's group; None if the videos are independent.
        """
        scored = self.is_scored
        numbers: dict[str, Any] = {"videos": len(self.by_video), "named": self.num_named}
        numbers |= {"scored": int(scored.sum()), "groups": None, "skipped": self.skipped}
        if not scored.any():
            return numbers
        chosen = None if groups is None else groups[scored]
        numbers |= self.mean._asdict()
        numbers["groups"] = None if chosen is None else len(np.unique(chosen))
        for column, name in enumerate(VideoMaskQuality._fields):
            if name != "base_share":
                values = self.by_video[scored, column]
                numbers[f"{name}_interval"] = list(mean_interval(values, chosen))
        return numbers


def mask_quality_lines(record: Mapping[str, Any]) -> list[str]:
    """Return `MaskQuality.record` as lines for people: the numbers, then the videos that have none.

    Args:
        record: The record.
    """
    lines = []
    if record["scored"]:
        bounds = [
            "{:.3f} to {:.3f}".format(*record[f"{name}_interval"])
            for name in ("average_precision", "pointing_game")
        ]
        lines.append(
            f"mask            average precision {record['average_precision']:.3f} (95 % interval {bounds[0]},"
            f" over {sample_size(record['scored'], record['groups'])}; the figure covers"
            f" {record['base_share']:.3f} of the pixels)"
            f"  pointing game {record['pointing_game']:.3f} ({bounds[1]})"
        )
    if record["named"] < record["videos"] or record["skipped"]:
        lines.append(f"true masks for {record['named']} of {counted(record['videos'], 'video')}")
    if skipped := record["skipped"]:
        first = skipped[0]
        lines.append(
            f"{len(skipped)} of them could not be compared with their mask; their predictions are scored. The"
            f" first is row {first['row'] + 1}, {first['path']} ({first['reason']})"
        )
    return lines


class MaskScorer:
    """Observer of an evaluation that compares each mask with the true one; see `score_views`.

    Args:
        shards: Decoded videos.
        manifest: List of these videos, whose column `mask` names true masks.
    """

    def __init__(self, shards: ShardSet, manifest: Manifest) -> None:
        self._masks, self._shards = TrueMasks(shards, manifest), shards
        self._values: list[list[VideoMaskQuality]] = [[] for _ in range(len(shards))]
        self._reasons: dict[int, str] = {}
        self._has_masks = False
        self._waiting: Callable[[], None] | None = None

    def __call__(self, view: ScoredView, positions: NDArray[np.int64], output: MethodOutput) -> None:
        """Compare the masks of the batch before. Those of this one are copied while the next is computed."""
        if output.mask is None:
            return
        self._has_masks = True
        copy = download(output.mask.float())
        self._finish()
        self._waiting = lambda: self._compare_all(view, positions, copy().numpy())

    def _finish(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting()

    def _compare_all(self, view: ScoredView, positions: NDArray[np.int64], masks: Values) -> None:
        for position, mask in zip(positions.tolist(), masks, strict=True):
            if self._masks.is_named(position):
                try:
                    self._values[position].append(self._compare(position, mask, view))
                except MaskError as error:
                    self._reasons[position] = str(error)

    def _compare(self, position: int, mask: Values, view: ScoredView) -> VideoMaskQuality:
        true = self._masks.read(position, view=view.temporal)
        if not np.isfinite(mask).all():
            raise MaskError(self._shards.paths[position], "the method's mask is NaN or infinite")
        quality = video_mask_quality(mask, figure_of(true, mask.shape[-1], view))
        if not quality.base_share:
            raise MaskError(self._shards.paths[position], "the true mask is empty in the frames of the view")
        return quality

    def result(self) -> MaskQuality | None:
        """Return the quality; None if the method has no masks or the manifest names none."""
        self._finish()
        named = self._masks.num_named
        if not self._has_masks or not named:
            return None
        by_video = np.full((len(self._values), 3), np.nan)
        for position, values in enumerate(self._values):
            if values:
                by_video[position] = np.mean(values, axis=0)
        skipped = [
            {"row": int(self._shards.rows[position]), "path": self._shards.paths[position], "reason": reason}
            for position, reason in sorted(self._reasons.items())
            # A figure that one of several crops misses is no reason to leave the video out.
            if not self._values[position]
        ]
        return MaskQuality(by_video, named, skipped)


def score_masks(
    method: Method,
    shards: ShardSet,
    manifest: Manifest,
    *,
    device: torch.device,
    batch_size: int,
    views: EvaluationViews | None = None,
    dtype: torch.dtype | None = None,
) -> MaskQuality | None:
    """Compare the masks of a method with the true ones, also before its training.

    Args:
        method: Method to evaluate.
        shards: Decoded videos.
        manifest: List of these videos, whose column `mask` names true masks.
        device: Device of the method.
        batch_size: Videos per forward pass.
        views: Views of a video; by default the centre crop of one view.
        dtype: Type for autocast, None for none.

    Returns:
        The quality; None if the method has no masks or the manifest names none.
    """
    scorer = MaskScorer(shards, manifest)
    labels = np.zeros(len(shards), np.int64)
    score_views(
        method,
        shards,
        labels,
        views=views or EvaluationViews(),
        device=device,
        batch_size=batch_size,
        dtype=dtype,
        watch=scorer,
    )
    return scorer.result()
