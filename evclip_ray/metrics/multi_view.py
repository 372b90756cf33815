"""Evaluation on several views of each video, temporal by spatial, whose scores are averaged.

Temporal views are decoded (`data.video.sampling.spread_offsets`). With segment sampling, each view takes
other frames of every segment. With window sampling, the views are dense windows over the whole video. Spatial
views are square crops along the longer side of the stored frames. A single one is the centre crop; several
run from end to end. Where frames keep the aspect of their video, several crops have the full short side and
cover the picture together. Frames of a fixed size keep the crop of 7/8 of their short side.

Published protocols use 1x1 (EV-CLIP), 4x3 (X-CLIP, ViFi-CLIP), and 5x3 or 10x3 (dense sampling).
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from evclip_ray.config import Config, ConfigError
from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.transfers import frame_batches
from evclip_ray.data.transforms import CROP_FRACTION, crop_batch, crop_box
from evclip_ray.data.video.view import ViewConfig
from evclip_ray.metrics.scoring import Batches, Scores, score
from evclip_ray.models.batch import MethodOutput, VideoBatch
from evclip_ray.models.methods.base import Method
from evclip_ray.progress import report

Average = Literal["probability", "logit"]


class EvaluationViews(Config):
    """Number of views of each video, and the scores that are averaged over them."""

    temporal: int = Field(1, ge=1)
    spatial: int = Field(1, ge=1)
    average: Average = "probability"

    @classmethod
    def parse(cls, text: str, average: str = "probability") -> Self:
        """Return the views from text such as "4x3": 4 temporal by 3 spatial views.

        Args:
            text: Both counts, at least 1 each.
            average: "probability" or "logit", see `average_logits`.

        Raises:
            ConfigError: `text` has another form, or `average` is unknown.
        """
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip())
        if match is None:
            raise ConfigError(f"views must be TEMPORALxSPATIAL, for example 4x3, got {text!r}")
        if average not in get_args(Average):
            raise ConfigError(f"average must be probability or logit, got {average!r}")
        return cls.load({"temporal": int(match[1]), "spatial": int(match[2]), "average": average})

    def __str__(self) -> str:
        return f"{self.temporal}x{self.spatial}"

    @property
    def crop_positions(self) -> list[float]:
        """Positions of the S square crops along the longer side, from 0 to 1."""
        # With two or more crops, the first and the last touch the ends.
        return list(map(float, np.linspace(0, 1, self.spatial))) if self.spatial > 1 else [0.5]


class ScoredView(NamedTuple):
    """One view of the videos: number of the temporal view, and `position` and `share` of `crop_batch`."""

    temporal: int
    position: float
    share: float


Watch = Callable[[ScoredView, npt.NDArray[np.int64], MethodOutput], None]
"""Function of a view, the positions of a batch's videos, and the output of the method for them."""


class Coverage(NamedTuple):
    """Shares of pixels, means over videos.

    `covered`: of the stored frames, in at least one crop; `overlap`: of the first crop, also in the last one.
    """

    covered: float
    overlap: float


def spatial_coverage(sizes: npt.NDArray[np.int64], view: ViewConfig, views: EvaluationViews) -> Coverage:
    """Return the shares of the stored frames that the spatial views cover.

    Args:
        sizes: (M, 2) height and width of the stored frames of each video.
        view: Stored size of the frames.
        views: Views of a video.
    """
    shares = []
    # Few sizes occur in a data set, so that each is computed once.
    different, counts = np.unique(sizes, axis=0, return_counts=True)
    for height, width in different.tolist():
        boxes = [
            crop_box(height, width, position=position, share=_crop_share(view, views))
            for position in views.crop_positions
        ]
        starts, side = [top + left for top, left, _ in boxes], boxes[0][2]
        # The crops differ along the longer side only, so the gaps between their starts give their union.
        union = side + sum(min(gap, side) for gap in np.diff(starts).tolist())
        shares.append((union * side / (height * width), max(0, side - (starts[-1] - starts[0])) / side))
    covered, overlap = np.average(np.array(shares), axis=0, weights=counts).tolist()
    return Coverage(covered, overlap)


def coverage_line(coverage: Coverage, view: ViewConfig, views: EvaluationViews) -> str:
    """Return one line: the share of the picture that the views cover, and the overlap of the outer crops."""
    whole = "of the stored middle of the picture" if view.fit == "crop" else "of the picture"
    if views.spatial == 1:
        return f"views {views}: the centre crop covers {100 * coverage.covered:.0f} % {whole}"
    keeps_aspect = "--set view.fit=short_side --set view.height=null --set view.width=null"
    advice = f"; {keeps_aspect} covers the whole picture" if view.fit == "crop" else ""
    return (
        f"views {views}: {views.spatial} crops cover {100 * coverage.covered:.0f} % {whole}, "
        f"the outer two share {100 * coverage.overlap:.0f} % of their pixels{advice}"
    )


def _crop_share(view: ViewConfig, views: EvaluationViews) -> float:
    return 1.0 if views.spatial > 1 and view.fixed_size is None else CROP_FRACTION


def score_views(
    method: Method,
    shards: ShardSet,
    labels: npt.NDArray[np.int64],
    *,
    views: EvaluationViews,
    device: torch.device,
    batch_size: int,
    dtype: torch.dtype | None = None,
    watch: Watch | None = None,
) -> Scores:
    """Score every video on all its views and average the scores.

    Args:
        method: Method to evaluate.
        shards: Decoded videos with at least `views.temporal` temporal views each.
        labels: (B,) indices of the true classes.
        views: Number of views and the scores to average.
        device: Device of the method.
        batch_size: Videos per forward pass, all of the same view.
        dtype: Type for autocast, None for none.
        watch: Function that is called for every batch of every view.

    Raises:
        ValueError: The shards hold fewer temporal views.
    """
    scored = _scored_views(shards.view, views)

    def note(number: int, done: int) -> None:
        report("scoring videos", number * len(shards) + done, len(scored) * len(shards))

    # One pass over the set for each view, so that memory holds one batch at a time.
    logits = [
        score(
            method,
            shards,
            labels,
            device=device,
            batch_size=batch_size,
            dtype=dtype,
            batches=_one_view(method, shards, view, device, functools.partial(note, number)),
            watch=_with_positions(watch, view) if watch else None,
        ).logits
        for number, view in enumerate(scored)
    ]
    return Scores(average_logits(np.stack(logits), views.average), labels)


def average_logits(logits: npt.NDArray[np.float32], average: Average) -> npt.NDArray[np.float32]:
    """Return the (B, N) average of the logits of V views.

    The two averages differ where views disagree. A confident view outweighs the others in logits, but has
    only one vote in V in probabilities.

    Args:
        logits: (V, B, N). The logits of a single view are returned unchanged.
        average: "logit" for the mean of the logits. "probability" for the log of the mean of the V softmaxes;
            the softmax of the result is that mean.
    """
    averaged: npt.NDArray[np.float32]
    if len(logits) == 1 or average == "logit":
        averaged = logits.mean(axis=0)
    else:
        # log(1/V sum_v p_v) = logsumexp_v(log p_v) - log V, which does not underflow for small probabilities.
        log_p = torch.from_numpy(logits).double().log_softmax(dim=-1)
        averaged = (log_p.logsumexp(dim=0) - np.log(len(logits))).float().numpy()
    return averaged


def _scored_views(stored: ViewConfig, views: EvaluationViews) -> list[ScoredView]:
    share = _crop_share(stored, views)
    positions = views.crop_positions
    return [ScoredView(view, position, share) for view in range(views.temporal) for position in positions]


def _with_positions(watch: Watch, view: ScoredView) -> Callable[[VideoBatch, MethodOutput], None]:
    """Return a function that counts the videos of a pass, which `score` reads in order."""
    seen = 0

    def on_batch(_: VideoBatch, output: MethodOutput) -> None:
        nonlocal seen
        positions = np.arange(seen, seen + len(output.logits))
        seen += len(positions)
        watch(view, positions, output)

    return on_batch


def _one_view(
    method: Method,
    shards: ShardSet,
    view: ScoredView,
    device: torch.device,
    note: Callable[[int], None],
) -> Batches:
    """Return a function that reads batches of one temporal view, cropped at one position.

    `note` is called with the number of scored videos before each batch and after the last one.
    """
    size = method.frozen.clip.image_size

    def batches(groups: list[npt.NDArray[np.int64]]) -> Iterator[VideoBatch]:
        done = 0
        for frames in frame_batches(shards, groups, device=device, view=view.temporal):
            note(done)
            done += len(frames)
            yield VideoBatch(crop_batch(frames, size=size, position=view.position, share=view.share))
        note(done)

    return batches
