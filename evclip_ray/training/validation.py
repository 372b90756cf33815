"""Validation of a run: every video once, in its fixed view, divided among the workers."""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.scoring import Scores, score
from evclip_ray.models.batch import MethodOutput, VideoBatch
from evclip_ray.models.layers.text_cache import TextFeatureCache
from evclip_ray.models.methods.base import Method
from evclip_ray.training.compiled import (
    can_compile,
    compiled_forward_alone,
    forward_alone,
    give_up,
    is_compiled,
    is_compiler_error,
)
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.distributed import Workers, require_finite, summed
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loader import Batches
from evclip_ray.training.per_video_scores import VideoScores
from evclip_ray.training.tensorboard.mask_stats import MaskWatch


class Validator(Protocol):
    """Measurement of a run after each epoch: `Validation`, or cross-validation over the training videos."""

    watch: MaskWatch

    def __call__(self) -> tuple[ClassificationState, Scores]:
        """Return the counts over all workers, and the scores of this worker's videos."""

    def of_each_video(self, scores: Scores) -> VideoScores:
        """Return the result of every video, gathered from all workers' `scores`."""


class Validation:
    """Validation passes of a method. `watch` collects statistics of the masks.

    Args:
        method: Method to score.
        videos: Videos of the run.
        batches: Batches of the validation split.
        batch_size: Videos per batch.
        dtype: Type for autocast; None scores in float32.
        workers: Workers of the run.
        experiment: Settings of the run.
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
        experiment: ExperimentConfig,
    ) -> None:
        self.method, self.batches, self.workers = method, batches, workers
        self.batch_size, self.dtype = batch_size, dtype
        self.videos, self.num_classes = videos.sets["val"], len(videos.classes)
        self.watch = MaskWatch()
        self._compile = experiment.compile
        self.is_compiled = not has_text_cache(method) and is_compiled(
            experiment.compile,
            batches.device,
            # The last batch of a pass is smaller, and is not worth a graph of its own.
            num_steps=len(self.videos) // batch_size * experiment.optim.epochs,
            num_workers=workers.count,
            has_fixed_shapes=method.has_fixed_shapes,
        )

    def __call__(self) -> tuple[ClassificationState, Scores]:
        """Return the counts over all workers, and the scores of this worker's videos.

        Raises:
            Diverged: A logit is not finite.
        """
        positions = self._positions()
        scores = score(
            self.method,
            self.videos.shards,
            self.videos.labels,
            device=self.batches.device,
            batch_size=self.batch_size,
            dtype=self.dtype,
            positions=positions,
            batches=self.batches,
            watch=self.watch,
            forward=self._forward,
        )
        require_finite(scores.is_finite, "validation logits are")
        # A worker has no videos if there are more workers than validation videos.
        state = scores.state if len(positions) else ClassificationState.empty(self.num_classes)
        # Counts and sums are additive over videos, means are not: the metrics are computed from the total.
        total = summed(torch.from_numpy(state.packed())).numpy()
        return ClassificationState.unpacked(total, self.num_classes), scores

    def of_each_video(self, scores: Scores) -> VideoScores:
        """Return the result of every validation video, gathered from all workers' `scores`."""
        results = np.zeros((2, len(self.videos)))
        if len(scores.labels):
            results[:, self._positions()] = scores.right, scores.log_loss
        # Each video belongs to one worker and is 0 on the others, so the sum gathers all results.
        right, log_loss = summed(torch.from_numpy(results)).numpy()
        return VideoScores(self.videos.key, right > 0, log_loss.astype(np.float32), self.videos.groups)

    def _forward(self, method: Method, batch: VideoBatch) -> MethodOutput:
        arguments = (method, batch, self.batches.device, self.dtype)
        if self.is_compiled and can_compile() and batch.num_videos == self.batch_size:
            try:
                return compiled_forward_alone()(*arguments)
            except Exception as error:
                if not is_compiler_error(error):
                    raise
                give_up(error, self._compile)
        return forward_alone(*arguments)

    def _positions(self) -> NDArray[np.int64]:
        # Every video exactly once. torch's DistributedSampler would repeat videos to make the parts equal,
        # which changes the accuracy.
        return np.arange(len(self.videos))[self.workers.rank :: self.workers.count]


def has_text_cache(method: Method) -> bool:
    """Return whether a method stores its texts between batches. A graph cannot compare values in Python."""
    return any(isinstance(each, TextFeatureCache) for each in vars(method).values())
