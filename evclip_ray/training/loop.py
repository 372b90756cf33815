"""Training loop in plain torch, without Ray: epochs, validation, checkpoints, resuming.

It reports through a callable, so that the same loop serves a local run, a Tune trial and a Ray Train
worker. All random numbers are drawn from (seed, epoch), so a resumed run takes the same steps as one that
was never interrupted.
"""

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from evclip_ray.artifacts import ArtifactError, provenance, write_text
from evclip_ray.formatting import counted
from evclip_ray.metrics.classification import ClassificationState
from evclip_ray.metrics.scoring import Scores
from evclip_ray.models.methods.base import Method
from evclip_ray.objective import BEST, LAST
from evclip_ray.records import EpochMetrics, objective_of, other_weights, random_weights_warning
from evclip_ray.training.build import autocast_dtype, build_method, conditions_of, pick_device, weights_of
from evclip_ray.training.checkpoint import (
    HISTORY,
    save_checkpoint,
    set_moments,
    set_tensors,
)
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.distributed import Diverged, Workers, summed
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import Cached, feature_specs, open_cached
from evclip_ray.training.loader import Batches
from evclip_ray.training.optim import learning_rate
from evclip_ray.training.per_video_scores import EpochAnswers, VideoScores
from evclip_ray.training.reproduction import COMPUTE, compute_of, refuse_other_run
from evclip_ray.training.saved_state import DAMAGED, SavedState, newest_state, set_aside
from evclip_ray.training.speed import InputClock, SpeedMeter
from evclip_ray.training.step import EpochSums, TrainingStep
from evclip_ray.training.tensorboard.hparams import MEAN_TAG
from evclip_ray.training.tensorboard.writer import BoardWriter
from evclip_ray.training.validation import Validation, Validator
from evclip_ray.training.zero_shot import zero_shot_numbers

log = logging.getLogger(__name__)

Report = Callable[[EpochMetrics], None]


@dataclasses.dataclass
class Progress:
    """Progress of a run: number of finished epochs, and the best of them."""

    epoch: int = 0
    best_top1: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0

    def improves(self, top1: float, loss: float) -> bool:
        """Return whether an epoch is better: a higher top-1, or the same top-1 and a lower loss."""
        return self.best_loss is None or (top1, -loss) > (self.best_top1, -self.best_loss)


class Run:
    """One training of one method.

    Args:
        experiment: Settings.
        videos: Prepared videos.
        method: Method to train, on its device.
        folder: Folder for `last/`, `best/`, `history.jsonl` and event files.
        zero_shot: File of the zero-shot baseline, which runs may share; by default in `folder`.
        hparams: Settings to compare runs by in TensorBoard, by path.
        objective: Objective of the study, for TensorBoard.
        cached: Cached outputs of the frozen networks.
        keeps_best: Whether to save the best checkpoint; a fold of a cross-validation needs none.

    Attributes:
        validate: Measurement after each epoch; None without validation videos.
        scored: Result of the last measurement, None before the first one.
    """

    validate: Validator | None

    def __init__(
        self,
        experiment: ExperimentConfig,
        videos: Videos,
        method: Method,
        *,
        folder: Path,
        zero_shot: Path | None = None,
        hparams: Mapping[str, Any] | None = None,
        objective: str = BEST,
        cached: Cached | None = None,
        keeps_best: bool = True,
    ) -> None:
        self.experiment, self.videos, self.method, self.folder = experiment, videos, method, folder
        self.zero_shot = zero_shot or folder / "zero_shot.json"
        self.hparams, self.objective, self.keeps_best = dict(hparams or {}), objective, keeps_best
        self.device = next(method.parameters()).device
        self.dtype = autocast_dtype(experiment, self.device)
        self.conditions = conditions_of(method.frozen, experiment, self.device)
        self.workers = Workers.here()
        self.steps_per_epoch = math.ceil(len(videos.sets["train"]) / experiment.optim.batch_size)
        # `np.array_split` makes batches whose sizes differ by at most one, so the smallest has the
        # rounded-down mean. A worker without a video in a step would have no loss, and DDP would wait for its
        # gradients.
        smallest = len(videos.sets["train"]) // self.steps_per_epoch
        count = self.workers.count
        if smallest < count:
            raise ValueError(
                f"{counted(count, 'worker', 'needs', 'need')} batches of at least "
                f"{counted(count, 'video')}, the smallest has {smallest}; "
                "raise optim.batch_size or lower --workers"
            )
        self.batches = self._batches(cached or Cached())
        # DDP copies the parameters of rank 0 to all workers here, so the constructor is a collective
        # operation.
        self.step = TrainingStep(
            method,
            experiment,
            workers=self.workers,
            device=self.device,
            dtype=self.dtype,
            num_steps=self.steps_per_epoch * experiment.optim.epochs,
        )
        # The folder of features lies in the cache folder.
        cache = videos.features.parent if videos.features else None
        self.speed = SpeedMeter(experiment, videos.classes, self.step, cache=cache)
        self.validate = self._validation() if "val" in videos.sets else None
        self.scored: tuple[ClassificationState, Scores] | None = None
        self.progress = Progress()
        self.history: list[EpochMetrics] = []
        # Encoded once per epoch: encoding the whole history after each epoch would be quadratic.
        self._lines: list[str] = []
        # A run of an older version that is resumed goes on without the answers of its earlier epochs.
        self.answers: EpochAnswers | None = None
        self.baseline: dict[str, Any] = {}

    @classmethod
    def start(
        cls,
        experiment: ExperimentConfig,
        videos: Videos,
        *,
        folder: Path,
        device: torch.device | None = None,
        zero_shot: Path | None = None,
        hparams: Mapping[str, Any] | None = None,
        objective: str = BEST,
        keeps_best: bool = True,
    ) -> Self:
        """Return a run that reads cached features where it may and builds the remaining frozen networks.

        The arguments are those of the class; `device` is the fastest one by default.
        """
        device = device or pick_device()
        cached = open_cached(experiment, videos, device=device)
        if not cached.sets and feature_specs(experiment, "train", device):
            log.warning("features of these settings are not cached; every step computes them")
        method = build_method(experiment, videos.classes, device=device, frozen=cached.networks)
        return cls(
            experiment,
            videos,
            method,
            folder=folder,
            zero_shot=zero_shot,
            hparams=hparams,
            objective=objective,
            cached=cached,
            keeps_best=keeps_best,
        )

    def _validation(self) -> Validation:
        return Validation(
            self.method,
            self.videos,
            self.batches["val"],
            batch_size=self.experiment.optim.eval_batch_size,
            dtype=self.dtype,
            workers=self.workers,
            experiment=self.experiment,
        )

    def _batches(self, cached: Cached) -> dict[str, Batches]:
        data, size = self.experiment.data, self.method.frozen.clip.image_size
        return {
            split: Batches(
                chosen,
                size=size,
                device=self.device,
                augment=data.augment if split == "train" else None,
                bank=data.bank if split == "train" else 1,
                features=cached.sets.get(split),
                pixels=cached.needs_pixels,
                labelled=split == "train",
                with_classes=not self.method.has_fixed_shapes,
            )
            for split, chosen in self.videos.sets.items()
        }

    def fit(self, report: Report) -> EpochMetrics:
        """Train to the last epoch, from the last checkpoint if there is one; return the last metrics.

        A run whose loss or gradient becomes NaN or infinite ends in that epoch, with `diverged` in its
        metrics. The zero-shot baseline is scored first, unless its file exists.

        Args:
            report: Called after every epoch, on every worker; called once for a run that is already finished.
        """
        # The lock is held for the whole run: two processes in one folder would overwrite each other's
        # checkpoints.
        with self.workers.alone(self.folder):
            return self._fit(report)

    def _fit(self, report: Report) -> EpochMetrics:
        self.resume()
        self._restore_history()
        # Only rank 0 writes files and events, so only it needs the speed and the baseline. They have no
        # collective operation; the other workers wait for rank 0 at their first gradient.
        if self.workers.rank == 0 and not self.is_done:
            epochs_left = self.experiment.optim.epochs - self.progress.epoch
            self.speed.begin(epochs_left * self.steps_per_epoch)
        if self.workers.rank == 0 and self.validate is not None:
            self.baseline = zero_shot_numbers(
                self.zero_shot, self.experiment, self.videos, device=self.device
            )
        last = self.history[-1] if self.history else EpochMetrics()
        # A finished run reports once: the study's searcher records a trial without a value as failed.
        if self.is_done:
            report(last)
        with self._board() as board:
            while not self.is_done:
                last = self.next_epoch(board)
                report(last)
        return last

    @property
    def is_done(self) -> bool:
        """Whether the last epoch has been trained, or the run has diverged."""
        diverged = bool(self.history) and self.history[-1].diverged
        return diverged or self.progress.epoch >= self.experiment.optim.epochs

    def resume(self, *, until: int | None = None) -> None:
        """Load the newest whole state of `last/`, if there is one.

        A damaged checkpoint is moved to the folder `damaged`. The run then goes on from the one before it, or
        starts again.

        Args:
            until: Latest epoch to go on from; None for any. A fold must not be ahead of its run.

        Raises:
            ArtifactError: The folder holds a run of another experiment.
        """
        state, problems = newest_state(self.folder, has_best=self.keeps_best, until=until)
        if state is not None:
            self._load(state)
        self._check_agreement()
        if not problems:
            return
        # After the collective operation above: no worker reads the files any more.
        if self.workers.rank == 0:
            set_aside(self.folder, None if state is None else state.checkpoint)
        action = f"goes on after epoch {state.history[-1].epoch}" if state else "starts again"
        log.warning("%s: the run %s; the damaged files are in %s", "; ".join(problems), action, DAMAGED)

    def _load(self, state: SavedState) -> None:
        record = state.record
        # Videos that have moved are compared by content, below.
        by_content = bool(record.get("rows") and self.videos.row_keys)
        refuse_other_run(self.folder, record, self.experiment.model_dump(mode="json"), by_content=by_content)
        # Origins contain the activation. The setting may be missing in a record of an earlier version.
        weights = weights_of(self.method.frozen)
        if record["weights"] != weights:
            raise ArtifactError(
                f"{self.folder}: holds a run on other frozen weights; choose another folder, or select those "
                f"weights: {other_weights(record['weights'], weights)}"
            )
        # Checkpoints of earlier versions have no digests of their videos.
        if record.get("rows") and self.videos.row_keys and record["rows"] != self.videos.row_keys:
            raise ArtifactError(
                f"{self.folder}: holds a run on other videos; choose another folder, or give the videos that "
                "it began with"
            )
        # The history comes from the checkpoint, not from the run's own file. The run's file is written after
        # the checkpoint and may lack the last epoch if the process was killed between the two writes.
        self.history = state.history
        self._lines = [json.dumps(metrics.to_record()) for metrics in self.history]
        self.answers = state.answers
        set_tensors(self.method, state.tensors, state.checkpoint)
        self.progress = Progress(**record["progress"])
        if not self.is_done:
            set_moments(self.method, self.step.optimizer, state.moments)
            self._restore_masks()
        log.info("%s: resuming after epoch %d", self.folder, self.progress.epoch)

    def _check_agreement(self) -> None:
        """Check that all workers go on from the same epoch. A shared folder may be read in different states.

        Raises:
            RuntimeError: They do not.
        """
        epochs = summed(torch.tensor([float(self.progress.epoch)])).item()
        if epochs != self.progress.epoch * self.workers.count:
            raise RuntimeError(f"{self.folder}: its workers read different epochs; they start once more")

    def _restore_history(self) -> None:
        """Write `history.jsonl` again if it is not that of the checkpoint, after a kill or damage."""
        path, text = self.folder / HISTORY, "".join(f"{line}\n" for line in self._lines)
        if self.workers.rank == 0 and text and not (path.is_file() and path.read_bytes() == text.encode()):
            write_text(path, text)

    def _restore_masks(self) -> None:
        """Compute the masks of the last epoch again: the next epoch's drift is measured from them."""
        # Every worker takes the same branch: the history is the same on all of them, and `validate` is
        # collective.
        if self.validate is not None and "mask_coverage" in self.history[-1].values:
            self.validate()
            self.validate.watch.finish()

    def next_epoch(self, board: BoardWriter | None = None) -> EpochMetrics:
        """Train and measure the next epoch, and save the checkpoints.

        Args:
            board: TensorBoard writer of the run.
        """
        started = time.perf_counter()
        epoch = self.progress.epoch
        try:
            trained = self._train(epoch)
            started += self.speed.spent()
            self.scored = self._validated()
        # `EpochSums.read` and `require_finite` raise on all workers together, so all leave the epoch here.
        except Diverged as problem:
            log.warning("%s: epoch %d: %s; the run ends here", self.folder, epoch + 1, problem)
            return self._finish_epoch({"diverged": True}, board, started)
        # The counts are sums over all workers, so every worker makes the same decision.
        is_best = self._is_best(self.scored)
        if is_best:
            self.progress.best_epoch = epoch + 1
        if self.validate is None or self.scored is None:
            return self._finish_epoch(trained, board, started, is_best=is_best)
        state, scores = self.scored
        if is_best:
            self.progress.best_top1, self.progress.best_loss = state.top1, state.log_loss
        masks, strips = self.validate.watch.finish()
        scored = {"val_top1": state.top1, "val_top5": state.top5, "val_loss": state.log_loss, **masks}
        if board is not None:
            board.validated(
                state,
                scores,
                self.videos.classes,
                strips,
                epoch=epoch + 1,
                last=self.experiment.optim.epochs,
            )
        each = self.validate.of_each_video(scores)
        # Renamed videos, or other skipped ones, give other bits: the earlier answers do not belong to them.
        if self.answers is None or self.answers.videos != each.videos:
            labels = self.videos.sets["val"].labels
            self.answers = EpochAnswers.empty(each.videos, len(each.right), each.groups, labels)
        self.answers = self.answers.with_epoch(epoch + 1, each.right)
        return self._finish_epoch({**trained, **scored}, board, started, is_best=is_best, each=each)

    def _validated(self) -> tuple[ClassificationState, Scores] | None:
        """Validate, a second time without CUDA graphs if they leave too little memory of the GPU."""
        if self.validate is None:
            return None
        try:
            return self.validate()
        except torch.OutOfMemoryError:
            # Cross-validation trains meanwhile, and cannot be repeated.
            if self.step.graphs is None or not isinstance(self.validate, Validation):
                raise
            if not self.step.graphs.drop("validation needs their memory"):
                raise
        # After the handler, whose traceback holds the tensors of the batch.
        self.validate.watch.discard()
        return self.validate()

    def _is_best(self, scored: tuple[ClassificationState, Scores] | None) -> bool:
        """Return whether the checkpoint of this epoch replaces the best one."""
        if scored is None or self.videos.selection == "last_epoch":
            return True
        return self.progress.improves(scored[0].top1, scored[0].log_loss)

    def _finish_epoch(
        self,
        values: Mapping[str, Any],
        board: BoardWriter | None,
        started: float,
        *,
        is_best: bool = False,
        each: VideoScores | None = None,
    ) -> EpochMetrics:
        progress = self.progress
        # Every worker counts epochs and appends to the history, because `is_done` must agree on all of them.
        progress.epoch += 1
        record = {
            "epoch": progress.epoch,
            **values,
            "best_val_top1": None if self.validate is None else progress.best_top1,
            "best_val_loss": progress.best_loss,
            "best_epoch": progress.best_epoch,
            "conditions": f"{self.conditions['precision']} on {self.conditions['device']}",
            "zero_shot_top1": self.baseline.get("top1"),
            "selection": self.videos.selection,
            "folds": self.videos.folds,
            "train_videos": len(self.videos.sets["train"]),
            "val_videos": len(self.videos.sets.get("val", ())),
            "leaking_rows": self.videos.leaking_rows,
            "seconds": round(time.perf_counter() - started, 4),
        }
        metrics = EpochMetrics.from_record(record)
        self.history.append(metrics)
        self._lines.append(json.dumps(record))
        if self.workers.rank == 0:
            self._save(each, is_best=is_best and self.keeps_best)
            if board is not None:
                board.epoch(metrics)
                scalars = self.method.scalars()
                board.scalars({f"scalars/{name}": scalars[name] for name in scalars}, epoch=metrics.epoch)
                if self.objective not in (BEST, LAST):
                    board.scalars({MEAN_TAG: objective_of(self.history, self.objective)}, epoch=metrics.epoch)
        return metrics

    def _train(self, epoch: int) -> dict[str, float]:
        # Validation left the method in evaluation mode. Frozen networks stay in evaluation mode, see
        # `FrozenNetwork`.
        self.method.train()
        train = self.videos.sets["train"]
        # The same on all workers: order, augmentation and mixup are drawn for the whole batch, and each
        # worker takes its part. The result therefore does not depend on the number of workers.
        generator = torch.Generator().manual_seed(_seed(self.experiment.seed, epoch))
        # Dropout draws from torch's global state, which must differ between workers.
        torch.manual_seed(_seed(self.experiment.seed, epoch, 1 + self.workers.rank))
        order = torch.randperm(len(train), generator=generator).numpy()
        sums = EpochSums(num_videos=len(train), num_steps=self.steps_per_epoch, workers=self.workers)
        rate = 0.0
        began = time.perf_counter()
        # Batches of equal size instead of a small last one: no step is noisier, and every worker has videos.
        groups = np.array_split(order, self.steps_per_epoch)
        # Epochs cycle through the cached views. The seed shifts the cycle, so that seeds begin with different
        # views.
        view = (epoch + self.experiment.seed) % self.batches["train"].num_views
        batches = self.batches["train"](groups, view=view, generator=generator, workers=self.workers)
        clock = InputClock(self.device)
        for step, group in enumerate(groups):
            with clock.waiting():
                batch = next(batches)
            rate = learning_rate(
                epoch * self.steps_per_epoch + step,
                steps_per_epoch=self.steps_per_epoch,
                optim=self.experiment.optim,
            )
            sums.add(self.step(batch, rate=rate, num_videos=len(group), generator=generator), len(group))
        means = sums.read()
        elapsed = time.perf_counter() - began
        # After `read`, which waits until the device has finished.
        step_seconds, wait_seconds = (each / self.steps_per_epoch for each in (elapsed, clock.seconds()))
        videos = len(train) / self.steps_per_epoch / self.workers.count
        return {
            **means,
            "lr": rate,
            "step_seconds": step_seconds,
            # With cutting the views of the batch.
            "wait_seconds": wait_seconds,
            **self.speed.shares(batch, videos=videos, seconds=step_seconds, waited=wait_seconds),
            "train_seconds": elapsed,
        }

    def _save(self, each: VideoScores | None, *, is_best: bool) -> None:
        record = self.record()
        # `best/` is written before `last/`. After a kill between the two, the epoch is trained again from the
        # old `last/` with the same random numbers, and the same `best/` is written again.
        if is_best:
            rows = self.videos.rows
            save_checkpoint(self.folder / "best", self.method, record, scores=each, rows=rows)
        # A finished run needs no moments, which are twice as large as its tensors.
        optimizer = None if self.is_done else self.step.optimizer
        history = "\n".join(self._lines) + "\n"
        save_checkpoint(
            self.folder / "last",
            self.method,
            record,
            optimizer=optimizer,
            scores=each,
            history=history,
            rows=self.videos.rows,
            answers=self.answers,
            keep_previous=not self.is_done,
        )
        write_text(self.folder / HISTORY, history)

    def record(self) -> dict[str, Any]:
        """Return the `config.json` of a checkpoint: settings, classes, progress, weights, versions."""
        return {
            "experiment": self.experiment.model_dump(mode="json"),
            "classes": list(self.videos.classes),
            "progress": dataclasses.asdict(self.progress),
            "num_trainable": self.method.num_trainable(),
            "weights": weights_of(self.method.frozen),
            "conditions": self.conditions,
            "rows": dict(self.videos.row_keys),
            "selection": self.videos.selection,
            "decoder": self.videos.sets["train"].shards.ledger["inputs"]["decoder"],
            COMPUTE: compute_of(self.workers.count),
            "provenance": provenance(),
            **self.speed.record(),
        }

    def _board(self) -> contextlib.AbstractContextManager[BoardWriter | None]:
        if self.workers.rank != 0:
            return contextlib.nullcontext()
        weights = weights_of(self.method.frozen)
        warning = random_weights_warning(weights)
        settings = json.dumps(self.experiment.model_dump(mode="json"), indent=1)
        text = {
            "config": f"```\n{settings}\n```",
            "weights": f"{weights}" + (f"\n\n**{warning}**" if warning else ""),
        }
        return BoardWriter(self.folder, self.hparams, text=text)


def _seed(*numbers: int) -> int:
    # SeedSequence hashes its numbers: neighbouring seeds and epochs give unrelated streams, unlike a sum such
    # as seed + epoch, where seed 0 in epoch 1 equals seed 1 in epoch 0. The shift leaves 63 bits for a signed
    # integer.
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
