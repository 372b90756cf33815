"""Several views of each video: T x S of them, temporal by spatial, averaged to one answer.

Temporal views are decoded (`data.sampling.spread_offsets`): with segments each takes other frames of
every segment, with windows they are dense windows over the whole video. Spatial views are squares
along the longer side of the stored frames: the middle one, or from end to end. Published protocols
use 1x1 (EV-CLIP), 4x3 (X-CLIP, ViFi-CLIP), and 5x3 or 10x3 (dense sampling).
"""

import re
from collections.abc import Iterator
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from evclip_ray.config import Config, ConfigError
from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.transforms import crop_batch
from evclip_ray.metrics.scoring import Batches, Scores, score
from evclip_ray.models.methods.base import Method, VideoBatch

Average = Literal["probability", "logit"]


class EvaluationViews(Config):
    """How many views of a video are scored, and what of them is averaged."""

    temporal: int = Field(1, ge=1)
    spatial: int = Field(1, ge=1)
    average: Average = "probability"

    @classmethod
    def parse(cls, text: str, average: str = "probability") -> Self:
        """Read "4x3": 4 temporal by 3 spatial views.

        Raises:
            ConfigError: another form, a count below 1, or an average that there is not.
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
    def places(self) -> list[float]:
        """Where the S squares lie along the longer side, from 0 to 1."""
        return [float(at) for at in np.linspace(0, 1, self.spatial)] if self.spatial > 1 else [0.5]


def score_views(
    method: Method,
    shards: ShardSet,
    labels: npt.NDArray[np.int64],
    *,
    views: EvaluationViews,
    device: torch.device,
    batch_size: int,
    dtype: torch.dtype | None = None,
) -> Scores:
    """One answer a video, of all its views; `shards` hold the temporal ones.

    Raises:
        ValueError: fewer temporal views are stored.
    """
    said = [
        score(
            method, shards, labels, device=device, batch_size=batch_size, dtype=dtype,
            batches=_one_view(method, shards, view, place, device),
        ).logits
        for view in range(views.temporal)
        for place in views.places
    ]  # fmt: skip
    return Scores(average_logits(np.stack(said), views.average), labels)


def average_logits(logits: npt.NDArray[np.float32], average: Average) -> npt.NDArray[np.float32]:
    """(V, B, N) logits of V views -> (B, N) logits of the answer.

    "logit": their mean. "probability": the log of the mean of the V softmaxes, whose softmax is that
    mean. They differ where views disagree: a sure view outweighs unsure ones in logits, and has one
    vote in V in probabilities. A single view keeps its logits.
    """
    answer: npt.NDArray[np.float32]
    if len(logits) == 1 or average == "logit":
        answer = logits.mean(axis=0)
    else:
        log_p = torch.from_numpy(logits).double().log_softmax(dim=-1)
        answer = (log_p.logsumexp(dim=0) - np.log(len(logits))).float().numpy()
    return answer


def _one_view(method: Method, shards: ShardSet, view: int, place: float, device: torch.device) -> Batches:
    size = method.frozen.clip.image_size

    def batches(groups: list[npt.NDArray[np.int64]]) -> Iterator[VideoBatch]:
        for positions in groups:
            frames = torch.from_numpy(shards.frames(positions, view=view)).to(device)
            yield VideoBatch(crop_batch(frames, size=size, place=place))

    return batches
