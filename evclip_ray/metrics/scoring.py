"""Scores of a method on decoded videos: every video once, by default on one fixed view."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.transfers import frame_batches
from evclip_ray.data.transforms import crop_batch
from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.intervals import accuracy_interval
from evclip_ray.models.batch import MethodOutput, VideoBatch
from evclip_ray.models.layers.text_cache import fixed_parameters
from evclip_ray.models.methods.base import Method

Batches = Callable[[list[npt.NDArray[np.int64]]], Iterator[VideoBatch]]
"""Function from groups of positions to one batch per group."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of B videos in order: `logits` (B, N) float32 and `labels` (B,) true class indices."""

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @property
    def state(self) -> ClassificationState:
        """Sums from which the metrics are computed."""
        return ClassificationState.of(self.logits, self.labels)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(B,) flags: the best class of the video is the true one."""
        correct: npt.NDArray[np.bool_] = self.logits.argmax(1) == self.labels
        return correct

    @property
    def log_loss(self) -> npt.NDArray[np.float64]:
        """(B,) values of -log p(true class), in nats."""
        scores = self.logits.astype(np.float64)
        true = scores[np.arange(len(scores)), self.labels]
        # -log softmax = log sum_j exp(s_j) - s_true; `logaddexp` does not overflow.
        losses: npt.NDArray[np.float64] = np.logaddexp.reduce(scores, axis=1) - true
        return losses

    @property
    def is_finite(self) -> bool:
        """True if no logit is NaN or infinite."""
        return bool(np.isfinite(self.logits).all())


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[None]:
    """Return a context that autocasts to `dtype`; without effect if it is None."""
    if dtype is None:
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[None] = torch.autocast(device.type, dtype=dtype)
    return context


@torch.no_grad()
def score(
    method: Method,
    shards: ShardSet,
    labels: npt.NDArray[np.int64],
    *,
    device: torch.device,
    batch_size: int,
    dtype: torch.dtype | None = None,
    positions: npt.NDArray[np.int64] | None = None,
    batches: Batches | None = None,
    watch: Callable[[VideoBatch, MethodOutput], None] | None = None,
    forward: Callable[[Method, VideoBatch], MethodOutput] | None = None,
) -> Scores:
    """Score videos in evaluation mode. The method returns to its earlier mode afterwards.

    Args:
        method: Method to evaluate.
        shards: Decoded videos.
        labels: True class index of every video in `shards`.
        device: Device of the method.
        batch_size: Videos per forward pass.
        dtype: Type for autocast, None for none.
        positions: Positions in `shards` of the videos to score, all by default.
        batches: Function that makes one batch from each group of positions. By default, it reads the pixels
            of the fixed view.
        watch: Function that is called with every batch and its output.
        forward: Function that computes the output in the type of `dtype`. By default, it is the method.
    """
    chosen = np.arange(len(shards)) if positions is None else positions
    groups = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    # The caller may be in the middle of training, and `eval` changes how layers such as dropout work.
    was_training = method.training
    method.eval()
    logits: list[torch.Tensor] = []
    with fixed_parameters():
        for batch in batches(groups) if batches else _fixed_views(method, shards, groups, device):
            if forward is not None:
                output = forward(method, batch)
            else:
                with autocast(device, dtype):
                    output = method(batch)
            if watch is not None:
                watch(batch, output)
            # NumPy has no bfloat16. They stay on the device: copying them here would wait for the batch.
            logits.append(output.logits.float())
    method.train(was_training)
    values = torch.cat(logits).cpu().numpy() if logits else np.zeros((0, 0), np.float32)
    return Scores(values, labels[chosen])


def _fixed_views(
    method: Method, shards: ShardSet, groups: list[npt.NDArray[np.int64]], device: torch.device
) -> Iterator[VideoBatch]:
    for frames in frame_batches(shards, groups, device=device):
        yield VideoBatch(crop_batch(frames, size=method.frozen.clip.image_size))


def summary(
    scores: Scores, groups: npt.NDArray[np.int64] | None = None
) -> dict[str, float | int | list[float] | None]:
    """Return the metrics of a result row: top-1 with its 95 % interval, see `accuracy_interval`, and others.

    Args:
        scores: Scores of the videos.
        groups: (V,) number of each video's group; None if the videos are independent.
    """
    state = scores.state
    low, high = accuracy_interval(scores.right, groups)
    return {
        "videos": state.num_videos,
        "groups": None if groups is None else len(np.unique(groups)),
        "top1": state.top1,
        "top1_interval": [low, high],
        "top5": state.top5,
        "mean_class_accuracy": state.mean_class_accuracy,
        "log_loss": state.log_loss,
        "calibration_error": state.calibration_error,
    }
