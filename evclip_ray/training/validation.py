"""A run's validation: every video once, in its fixed view, shared between the workers."""

import numpy as np
import torch
from numpy.typing import NDArray

from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.scoring import Scores, score
from evclip_ray.models.methods.base import Method
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.distributed import Workers, require_finite, summed
from evclip_ray.training.loader import Batches
from evclip_ray.training.per_video_scores import VideoScores
from evclip_ray.training.tensorboard.mask_stats import MaskWatch


class Validation:
    """Scores `method` on the validation `videos`, by `batches` of them; `watch` sees the masks.

    `batch_size`: videos at a time; `dtype`: of autocast, None for none.
    """

    def __init__(
        self,
        method: Method,
        videos: Videos,
        batches: Batches,
        *,
        batch_size: int,
        dtype: torch.dtype | None,
        workers: Workers,
    ) -> None:
        self.method, self.batches, self.workers = method, batches, workers
        self.batch_size, self.dtype = batch_size, dtype
        self.videos, self.num_classes = videos.sets["val"], len(videos.classes)
        self.watch = MaskWatch()

    def __call__(self) -> tuple[ClassificationState, Scores]:
        """The sums over all workers, and what this worker's share of the videos was given.

        Raises:
            Diverged: a logit is not finite.
        """
        mine = self._own_videos()
        scores = score(
            self.method, self.videos.shards, self.videos.labels, device=self.batches.device,
            batch_size=self.batch_size, dtype=self.dtype, positions=mine,
            batches=self.batches, watch=self.watch,
        )  # fmt: skip
        require_finite(scores.is_finite, "validation logits are")
        state = scores.state if len(mine) else ClassificationState.empty(self.num_classes)
        total = summed(torch.from_numpy(state.packed())).numpy()
        return ClassificationState.unpacked(total, self.num_classes), scores

    def of_each_video(self, scores: Scores) -> VideoScores:
        """What all workers found of every validation video, from this one's share."""
        found = np.zeros((2, len(self.videos)))
        if len(scores.labels):
            found[:, self._own_videos()] = scores.right, scores.log_loss
        right, log_loss = summed(torch.from_numpy(found)).numpy()
        return VideoScores(self.videos.key, right > 0, log_loss.astype(np.float32))

    def _own_videos(self) -> NDArray[np.int64]:
        return np.arange(len(self.videos))[self.workers.rank :: self.workers.count]
