"""Cross-validation of a run that trains on all of its videos and keeps the last epoch.

With few training videos per class, none of them is held out of the run that gives the checkpoint. Its score
comes from K further runs in the same process. Fold k trains on all videos but part k, and scores part k. The
runs advance together, epoch by epoch, so that the pooled score of an epoch has every training video once,
scored by a run that did not train on it. Schedulers and resuming therefore see an ordinary run.

    last/, best/, history.jsonl    the run on all videos, with the pooled scores
    fold-0/, fold-1/, ...          last/ of each fold

The score is that of models trained on (K - 1) / K of the shots, so it is slightly pessimistic for the
checkpoint. Trials of a study are compared under the same folds.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evclip_ray.data.manifest.folds import assign_folds
from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.scoring import Scores
from evclip_ray.objective import BEST
from evclip_ray.training.build import pick_device
from evclip_ray.training.datamodule import Videos, VideoSet
from evclip_ray.training.distributed import Diverged
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.loop import Run
from evclip_ray.training.per_video_scores import VideoScores
from evclip_ray.training.tensorboard.mask_stats import MaskWatch
from evclip_ray.training.validation import Validation


def start_run(
    experiment: ExperimentConfig,
    videos: Videos,
    *,
    folder: Path,
    device: torch.device | None = None,
    zero_shot: Path | None = None,
    hparams: Mapping[str, Any] | None = None,
    objective: str = BEST,
) -> Run:
    """Return a run as `Run.start` does, measured by cross-validation if the videos have folds."""
    device = device or pick_device()
    run = Run.start(
        experiment,
        videos,
        folder=folder,
        device=device,
        zero_shot=zero_shot,
        hparams=hparams,
        objective=objective,
    )
    if videos.folds:
        held_out = folds_of(videos, seed=experiment.data.split_seed)
        folds = [
            Fold.start(
                experiment, videos, held_out == number, folder=folder / f"fold-{number}", device=device
            )
            for number in range(videos.folds)
        ]
        run.validate = CrossValidation(run, folds)
    return run


def folds_of(videos: Videos, *, seed: int) -> NDArray[np.int64]:
    """Return the fold in which each training video is held out, (V,)."""
    shards = videos.sets["train"].shards
    groups = [group or path for group, path in zip(shards.groups, shards.paths, strict=True)]
    return assign_folds(shards.labels, groups, folds=videos.folds, seed=seed)


@dataclasses.dataclass(frozen=True)
class Fold:
    """Run on all training videos but one part, which it scores. `positions` are those of the part."""

    run: Run
    positions: NDArray[np.int64]

    @classmethod
    def start(
        cls,
        experiment: ExperimentConfig,
        videos: Videos,
        is_held_out: NDArray[np.bool_],
        *,
        folder: Path,
        device: torch.device,
    ) -> "Fold":
        """Return a fold before its first epoch.

        Args:
            experiment: Settings of the run.
            videos: Videos with folds.
            is_held_out: (V,) flags of the training videos that the fold scores.
            folder: Folder of the fold.
            device: Device of the run, which also holds the frozen networks that all folds share.
        """
        kept, held_out = np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)
        sets = {"train": _subset(videos.sets["train"], kept), "val": _subset(videos.sets["val"], held_out)}
        # The record of rows is that of the whole run.
        own = dataclasses.replace(videos, sets=sets, folds=0, rows=None)
        return cls(Run.start(experiment, own, folder=folder, device=device, keeps_best=False), held_out)

    def score_epoch(self, epoch: int) -> tuple[ClassificationState, Scores]:
        """Train up to an epoch and return the scores of the held-out videos.

        Raises:
            Diverged: The fold's loss or logits are not finite.
        """
        run = self.run
        if not run.history:
            # The whole run may have gone back to an earlier epoch than its folds, or start again.
            run.resume(until=epoch)
        # A kill may have ended the process after some folds saved this epoch: they are scored again.
        while run.progress.epoch < epoch and not run.is_done:
            run.next_epoch()
        if run.history[-1].diverged:
            raise Diverged(f"{run.folder.name} is not finite")
        scored, run.scored = run.scored, None
        if scored is None:
            scored = self.validation()
            # Its masks are those that the next epoch's change is measured from.
            self.validation.watch.finish()
        return scored

    @property
    def validation(self) -> Validation:
        """Validation on the held-out videos."""
        assert isinstance(self.run.validate, Validation)
        return self.run.validate


class CrossValidation:
    """Measurement of a run by its folds, in place of a `Validation`.

    Args:
        whole: Run on all videos.
        folds: Its folds.
    """

    def __init__(self, whole: Run, folds: list[Fold]) -> None:
        self._whole, self._folds = whole, folds
        self._each: list[VideoScores] = []
        # Masks are not watched: each fold has its own, and their changes cannot be pooled.
        self.watch = MaskWatch()

    def __call__(self) -> tuple[ClassificationState, Scores]:
        """Advance all folds by one epoch, and return the pooled counts and this worker's scores.

        Raises:
            Diverged: A fold diverged.
        """
        epoch = self._whole.progress.epoch + 1
        scored = [fold.score_epoch(epoch) for fold in self._folds]
        self._each = [
            fold.validation.of_each_video(scores)
            for fold, (_, scores) in zip(self._folds, scored, strict=True)
        ]
        # Counts and sums are additive over videos, and each video is in one fold.
        packed = sum(state.packed() for state, _ in scored)
        state = ClassificationState.unpacked(np.asarray(packed), len(self._whole.videos.classes))
        # A worker without videos in a fold has no logits there, not even their number of classes.
        mine = [scores for _, scores in scored if len(scores.labels)] or [scored[0][1]]
        logits, labels = (
            np.concatenate([getattr(scores, name) for scores in mine]) for name in ("logits", "labels")
        )
        return state, Scores(logits, labels)

    def of_each_video(self, scores: Scores) -> VideoScores:
        """Return the result of every training video, from the fold that did not train on it."""
        videos = self._whole.videos.sets["val"]
        right, log_loss = np.zeros(len(videos), bool), np.zeros(len(videos), np.float32)
        for fold, each in zip(self._folds, self._each, strict=True):
            right[fold.positions], log_loss[fold.positions] = each.right, each.log_loss
        return VideoScores(videos.key, right, log_loss, videos.groups)


def _subset(videos: VideoSet, positions: NDArray[np.int64]) -> VideoSet:
    return VideoSet(videos.shards.subset(positions), videos.labels[positions])
