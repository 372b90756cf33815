"""The training loop: plain torch, no Ray. Epochs, validation, checkpoints, resumption.

It reports through a callable, so that the same loop serves a local run, a Tune trial and a Ray Train
worker. Everything random is drawn from (seed, epoch), so a run resumed from its last epoch takes the
steps that it would have taken.
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
from evclip_ray.models.methods.base import Method
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.checkpoint import (
    HISTORY,
    latest_checkpoint,
    load_adapter,
    load_optimizer,
    read_history,
    read_record,
    save_checkpoint,
)  # fmt: skip
from evclip_ray.training.datamodule import Videos
from evclip_ray.training.distributed import Workers
from evclip_ray.training.diverged import Diverged
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.frozen_cache import Cached, feature_specs, open_cached
from evclip_ray.training.loader import Batches
from evclip_ray.training.optim import learning_rate
from evclip_ray.training.per_video_scores import VideoScores
from evclip_ray.training.step import Metrics, TrainingStep
from evclip_ray.training.tensorboard.writer import BoardWriter
from evclip_ray.training.validation import Validation
from evclip_ray.training.zero_shot import zero_shot_numbers

log = logging.getLogger(__name__)

Report = Callable[[Metrics], None]


@dataclasses.dataclass
class Progress:
    """How far a run is: what it needs to go on, and the best epoch so far."""

    epoch: int = 0
    best_top1: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0

    def improves(self, top1: float, loss: float) -> bool:
        """Whether an epoch beats the best: higher top-1, or the same with a lower loss."""
        return self.best_loss is None or (top1, -loss) > (self.best_top1, -self.best_loss)


class Run:
    """One training of one method. `folder` gets `last/`, `best/`, `history.jsonl` and event files."""

    def __init__(
        self,
        experiment: ExperimentConfig,
        videos: Videos,
        method: Method,
        *,
        folder: Path,
        zero_shot: Path | None = None,
        hparams: Mapping[str, Any] | None = None,
        cached: Cached | None = None,
    ) -> None:
        self.experiment, self.videos, self.method, self.folder = experiment, videos, method, folder
        self.zero_shot = zero_shot or folder / "zero_shot.json"
        self.hparams = dict(hparams or {})
        self.device = next(method.parameters()).device
        self.dtype = autocast_dtype(experiment, self.device)
        self.workers = Workers.here()
        self.steps_per_epoch = math.ceil(len(videos.sets["train"]) / experiment.optim.batch_size)
        smallest = len(videos.sets["train"]) // self.steps_per_epoch
        count = self.workers.count
        if smallest < count:
            raise ValueError(
                f"{count} workers need batches of at least {count} videos, the smallest has {smallest}; "
                "raise optim.batch_size or lower --workers"
            )
        self.batches = self._batches(cached or Cached())
        self.step = TrainingStep(
            method, experiment, workers=self.workers, device=self.device, dtype=self.dtype
        )
        self.validate = Validation(
            method, videos, self.batches["val"],
            batch_size=experiment.optim.eval_batch_size, dtype=self.dtype, workers=self.workers,
        )  # fmt: skip
        self.progress = Progress()
        self.history: list[Metrics] = []
        # As text: a long run would otherwise encode all of it anew after each epoch.
        self._lines: list[str] = []
        self.baseline: Metrics = {}

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
    ) -> Self:
        """The run of an experiment: its method built over what is left to compute of the frozen networks."""
        device = device or pick_device()
        cached = open_cached(experiment, videos, device=device)
        if not cached.sets and feature_specs(experiment, "train", device):
            log.warning("the features of these settings were not prepared: every step computes its own")
        method = build_method(experiment, videos.classes, device=device, frozen=cached.networks)
        return cls(
            experiment, videos, method, folder=folder, zero_shot=zero_shot, hparams=hparams, cached=cached
        )

    def _batches(self, cached: Cached) -> dict[str, Batches]:
        data, size = self.experiment.data, self.method.frozen.clip.image_size
        return {
            split: Batches(
                found, size=size, device=self.device,
                augment=data.augment if split == "train" else None, bank=data.bank if split == "train" else 1,
                features=cached.sets.get(split), pixels=cached.needs_pixels, labelled=split == "train",
            )
            for split, found in self.videos.sets.items()
        }  # fmt: skip

    def fit(self, report: Report) -> Metrics:
        """Train to the last epoch, from the last checkpoint if there is one; return the last metrics.

        `report` is called after every epoch, on every worker (once, for a run that was finished
        already). A run whose loss stops being a number ends there, reports its best epoch so far and
        says so by `diverged`. The zero-shot numbers are written first, if they are not there.
        """
        with self.workers.alone(self.folder):
            return self._fit(report)

    def _fit(self, report: Report) -> Metrics:
        self.resume()
        if self.workers.rank == 0:
            self.baseline = zero_shot_numbers(
                self.zero_shot, self.experiment, self.videos, device=self.device
            )
        last = self.history[-1] if self.history else {}
        if self.is_done:
            report(last)
        with self._board() as board:
            while not self.is_done:
                last = self._epoch(board)
                report(last)
        return last

    @property
    def is_done(self) -> bool:
        """Whether the last epoch has been trained, or the run has diverged."""
        diverged = bool(self.history and self.history[-1].get("diverged"))
        return diverged or self.progress.epoch >= self.experiment.optim.epochs

    def resume(self) -> None:
        """Continue from `last/` where a run of the same experiment left one."""
        found = latest_checkpoint(self.folder / "last")
        if found is None:
            return
        record = read_record(found)
        if record["experiment"] != self.experiment.model_dump(mode="json"):
            raise ArtifactError(
                f"{self.folder}: holds a run of another experiment; choose another folder or remove it"
            )
        self.history = read_history(found, record["progress"]["epoch"])
        self._lines = [json.dumps(metrics) for metrics in self.history]
        load_adapter(found, self.method)
        self.progress = Progress(**record["progress"])
        if not self.is_done:
            load_optimizer(found, self.method, self.step.optimizer)
            self._see_masks_again()
        log.info("%s: resuming after epoch %d", self.folder, self.progress.epoch)

    def _see_masks_again(self) -> None:
        """Those of the last epoch, from which the next one's are said to have drifted."""
        if "mask_coverage" in self.history[-1]:
            self.validate()
            self.validate.watch.finish()

    def _epoch(self, board: BoardWriter | None) -> Metrics:
        started = time.perf_counter()
        epoch = self.progress.epoch
        try:
            trained = self._train(epoch)
            state, scores = self.validate()
        except Diverged as problem:
            log.warning("%s: epoch %d: %s; the run ends here", self.folder, epoch + 1, problem)
            return self._finish_epoch({"diverged": True}, board, started)
        better = self.progress.improves(state.top1, state.log_loss)
        if better:
            self.progress.best_top1, self.progress.best_loss = state.top1, state.log_loss
            self.progress.best_epoch = epoch + 1
        masks, strips = self.validate.watch.finish()
        scored = {"val_top1": state.top1, "val_top5": state.top5, "val_loss": state.log_loss, **masks}
        if board is not None:
            board.validated(
                state, scores, self.videos.classes, strips,
                epoch=epoch + 1, last=self.experiment.optim.epochs,
            )  # fmt: skip
        best = self.validate.of_each_video(scores) if better else None
        return self._finish_epoch({**trained, **scored}, board, started, best=best)

    def _finish_epoch(
        self, values: Metrics, board: BoardWriter | None, started: float, *, best: VideoScores | None = None
    ) -> Metrics:
        progress = self.progress
        progress.epoch += 1
        metrics: Metrics = {
            "epoch": progress.epoch,
            **values,
            "best_val_top1": progress.best_top1,
            "best_val_loss": progress.best_loss,
            "best_epoch": progress.best_epoch,
            "zero_shot_top1": self.baseline.get("top1"),
            "val_videos": len(self.videos.sets["val"]),
            "leaking_rows": self.videos.leaking_rows,
            "seconds": round(time.perf_counter() - started, 4),
        }
        self.history.append(metrics)
        self._lines.append(json.dumps(metrics))
        if self.workers.rank == 0:
            self._save(best)
            if board is not None:
                board.epoch(metrics)
        return metrics

    def _train(self, epoch: int) -> Metrics:
        self.method.train()
        train = self.videos.sets["train"]
        generator = torch.Generator().manual_seed(_seed(self.experiment.seed, epoch))
        # Dropout draws from torch's own state, each worker's another.
        torch.manual_seed(_seed(self.experiment.seed, epoch, 1 + self.workers.rank))
        order = torch.randperm(len(train), generator=generator).numpy()
        sums: dict[str, float] = {}
        norms, rate = [], 0.0
        began = time.perf_counter()
        # Equal batches, not full ones and a rest: no step is noisier, no worker is without a video.
        groups = np.array_split(order, self.steps_per_epoch)
        view = (epoch + self.experiment.seed) % self.batches["train"].num_views
        batches = self.batches["train"](groups, view=view, generator=generator, workers=self.workers)
        for step, (group, batch) in enumerate(zip(groups, batches, strict=True)):
            rate = learning_rate(
                epoch * self.steps_per_epoch + step,
                steps_per_epoch=self.steps_per_epoch, optim=self.experiment.optim,
            )  # fmt: skip
            terms, norm = self.step(batch, rate=rate, num_videos=len(group), generator=generator)
            norms.append(norm)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value * len(group) / len(train)
        elapsed = time.perf_counter() - began
        return {
            "train_loss": sum(sums.values()),
            **{f"train_{name}": value for name, value in sums.items()},
            "grad_norm": float(np.mean(norms)),
            "lr": rate,
            "step_seconds": elapsed / self.steps_per_epoch,
            "train_seconds": elapsed,
        }

    def _save(self, best: VideoScores | None) -> None:
        record = self.record()
        if best is not None:
            save_checkpoint(self.folder / "best", self.method, record, scores=best)
        # A finished run keeps its tensors, not the moments, which are twice as large.
        optimizer = None if self.is_done else self.step.optimizer
        history = "\n".join(self._lines) + "\n"
        save_checkpoint(self.folder / "last", self.method, record, optimizer=optimizer, history=history)
        write_text(self.folder / HISTORY, history)

    def record(self) -> Metrics:
        """What a checkpoint says of itself: settings, classes, progress, weights, versions."""
        return {
            "experiment": self.experiment.model_dump(mode="json"),
            "classes": list(self.videos.classes),
            "progress": dataclasses.asdict(self.progress),
            "num_trainable": self.method.num_trainable(),
            "weights": weights_of(self.method.frozen),
            "decoder": self.videos.sets["train"].shards.ledger["inputs"]["decoder"],
            "provenance": provenance(),
        }

    def _board(self) -> contextlib.AbstractContextManager[BoardWriter | None]:
        if self.workers.rank != 0:
            return contextlib.nullcontext()
        weights = weights_of(self.method.frozen)
        loud = "\n\n**RANDOM WEIGHTS**: these numbers say nothing of a trained CLIP" * (
            "random" in weights.values()
        )
        settings = json.dumps(self.experiment.model_dump(mode="json"), indent=1)
        text = {"config": f"```\n{settings}\n```", "weights": f"{weights}{loud}"}
        return BoardWriter(self.folder, self.hparams, text=text)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
