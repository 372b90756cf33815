"""Score a method on decoded videos: one deterministic view each, every video exactly once."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from evclip_ray.data.shards.prepare import ShardSet
from evclip_ray.data.transforms import crop_batch
from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.intervals import wilson_interval
from evclip_ray.models.methods.base import Method, MethodOutput, VideoBatch

Batches = Callable[[list[npt.NDArray[np.int64]]], Iterator[VideoBatch]]
"""Groups of positions -> a batch of each."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a method said: `logits` (V, N) float32, `labels` (V,) class indices, V videos in order."""

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @property
    def state(self) -> ClassificationState:
        """The sums that metrics come from."""
        return ClassificationState.of(self.logits, self.labels)

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(V,): whether the best class of each video is the true one."""
        found: npt.NDArray[np.bool_] = self.logits.argmax(1) == self.labels
        return found

    @property
    def log_loss(self) -> npt.NDArray[np.float64]:
        """(V,): -log p(true class) of each video, in nats."""
        scores = self.logits.astype(np.float64)
        true = scores[np.arange(len(scores)), self.labels]
        found: npt.NDArray[np.float64] = np.logaddexp.reduce(scores, axis=1) - true
        return found

    @property
    def is_finite(self) -> bool:
        """Whether every logit is a number."""
        return bool(np.isfinite(self.logits).all())


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[None]:
    """Autocast to `dtype`, or nothing for None."""
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
) -> Scores:
    """Logits of the videos at `positions` (all of them by default), in evaluation mode.

    `batches`: makes a batch of each group of positions; by default, of the pixels of their fixed view.
    `watch`: is shown every batch with its output.
    """
    chosen = np.arange(len(shards)) if positions is None else positions
    groups = [chosen[start : start + batch_size] for start in range(0, len(chosen), batch_size)]
    was_training = method.training
    method.eval()
    logits = []
    for batch in batches(groups) if batches else _fixed_views(method, shards, groups, device):
        with autocast(device, dtype):
            output = method(batch)
        if watch is not None:
            watch(batch, output)
        logits.append(output.logits.float().cpu().numpy())
    method.train(was_training)
    width = logits[0].shape[1] if logits else 0
    return Scores(np.concatenate(logits) if logits else np.zeros((0, width), np.float32), labels[chosen])


def _fixed_views(
    method: Method, shards: ShardSet, groups: list[npt.NDArray[np.int64]], device: torch.device
) -> Iterator[VideoBatch]:
    for positions in groups:
        frames = torch.from_numpy(shards.frames(positions)).to(device)
        yield VideoBatch(crop_batch(frames, size=method.frozen.clip.image_size))


def summary(state: ClassificationState) -> dict[str, float | int | list[float]]:
    """The numbers of a result row, top-1 with its 95 % Wilson interval."""
    low, high = wilson_interval(state.top1_hits, state.num_videos)
    return {
        "videos": state.num_videos,
        "top1": state.top1,
        "top1_interval": [low, high],
        "top5": state.top5,
        "mean_class_accuracy": state.mean_class_accuracy,
        "log_loss": state.log_loss,
        "calibration_error": state.calibration_error,
    }
