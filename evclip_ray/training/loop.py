"""The training loop: plain torch, no Ray. Epochs, validation, checkpoints, resumption.

It reports through a callable, so that the same loop serves a local run, a Tune trial and a Ray
Train worker. Everything random is drawn from (seed, epoch), so a run resumed from its last epoch
takes the steps that it would have taken.
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
import torch.distributed as dist
from torch import Tensor

from evclip_ray.artifacts import ArtifactError, provenance, write_text
from evclip_ray.data.mixup import mix
from evclip_ray.evaluation.evaluate import autocast, score
from evclip_ray.evaluation.metrics import ClassificationState
from evclip_ray.models.methods.base import Method, VideoBatch
from evclip_ray.training.baseline import zero_shot_numbers
from evclip_ray.training.batches import Batches
from evclip_ray.training.build import autocast_dtype, build_method, pick_device, weights_of
from evclip_ray.training.cached import Cached, feature_specs, open_cached
from evclip_ray.training.checkpoint import (
    latest_checkpoint,
    load_adapter,
    load_optimizer,
    read_record,
    save_checkpoint,
)  # fmt: skip
from evclip_ray.training.experiment import ExperimentConfig
from evclip_ray.training.optim import learning_rate, make_optimizer
from evclip_ray.training.tensorboard import BoardWriter
from evclip_ray.training.videos import Videos

log = logging.getLogger(__name__)

Metrics = dict[str, Any]
Report = Callable[[Metrics], None]


class Diverged(ArithmeticError):
    """The loss or the logits are no longer numbers."""


@dataclasses.dataclass
class Progress:
    """How far a run is: what it needs to go on, and the best epoch so far."""

    epoch: int = 0
    best_top1: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0
    history: list[Metrics] = dataclasses.field(default_factory=list)

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
        self.optimizer = make_optimizer(method.parameters(), experiment.optim)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.model = _distributed(method, self.device) if self.world > 1 else method
        self.steps_per_epoch = math.ceil(len(videos.sets["train"]) / experiment.optim.batch_size)
        smallest = len(videos.sets["train"]) // self.steps_per_epoch
        if smallest < self.world:
            raise ValueError(
                f"{self.world} workers need batches of at least {self.world} videos, the smallest has "
                f"{smallest}; raise optim.batch_size or lower --workers"
            )
        self.batches = self._batches(cached or Cached())
        self.progress = Progress()
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
        """Train to the last epoch, from the last checkpoint if there is one; returns the last metrics.

        `report` is called after every epoch, on every worker (once, for a run that was finished
        already). A run whose loss stops being a number ends there, reports its best epoch so far and
        says so by `diverged`. The zero-shot numbers are written first, if they are not there.
        """
        self.resume()
        if self.rank == 0:
            self.baseline = zero_shot_numbers(
                self.zero_shot, self.experiment, self.videos, device=self.device
            )
        last = self.progress.history[-1] if self.progress.history else {}
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
        history = self.progress.history
        diverged = bool(history and history[-1].get("diverged"))
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
        load_adapter(found, self.method)
        self.progress = Progress(**record["progress"])
        if not self.is_done:
            load_optimizer(found, self.method, self.optimizer)
        log.info("%s: resuming after epoch %d", self.folder, self.progress.epoch)

    def _epoch(self, board: BoardWriter | None) -> Metrics:
        started = time.perf_counter()
        epoch = self.progress.epoch
        try:
            trained = self._train(epoch)
            state = self._validate()
        except Diverged as problem:
            log.warning("%s: epoch %d: %s; the run ends here", self.folder, epoch + 1, problem)
            return self._finish_epoch({"diverged": True}, board, started)
        better = self.progress.improves(state.top1, state.log_loss)
        if better:
            self.progress.best_top1, self.progress.best_loss = state.top1, state.log_loss
            self.progress.best_epoch = epoch + 1
        scored = {"val_top1": state.top1, "val_top5": state.top5, "val_loss": state.log_loss}
        return self._finish_epoch({**trained, **scored}, board, started, better=better)

    def _finish_epoch(
        self, values: Metrics, board: BoardWriter | None, started: float, *, better: bool = False
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
        progress.history.append(metrics)
        if self.rank == 0:
            self._save(better)
            if board is not None:
                board.scalars(_board_names(metrics), epoch=progress.epoch)
        return metrics

    def _train(self, epoch: int) -> Metrics:
        self.model.train()
        train = self.videos.sets["train"]
        generator = torch.Generator().manual_seed(_seed(self.experiment.seed, epoch))
        order = torch.randperm(len(train), generator=generator).numpy()
        sums: dict[str, float] = {}
        norms, rate = [], 0.0
        began = time.perf_counter()
        # Equal batches, not full ones and a rest: no step is noisier, no worker is without a video.
        groups = np.array_split(order, self.steps_per_epoch)
        mine = [np.array_split(group, self.world)[self.rank] for group in groups]
        view = (epoch + self.experiment.seed) % self.batches["train"].num_views
        batches = self.batches["train"](mine, view=view, generator=generator)
        for step, (group, batch) in enumerate(zip(groups, batches, strict=True)):
            rate = learning_rate(
                epoch * self.steps_per_epoch + step,
                steps_per_epoch=self.steps_per_epoch, optim=self.experiment.optim,
            )  # fmt: skip
            terms, norm = self._step(batch, rate=rate, num_videos=len(group), generator=generator)
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

    def _losses(self, batch: VideoBatch, generator: torch.Generator) -> dict[str, Tensor]:
        labels = batch.labels
        assert labels is not None
        mixed = None
        if self.experiment.data.augment.mixup and batch.pixels is not None:
            mixed = mix(batch.pixels, alpha=self.experiment.data.augment.mixup, generator=generator)
            batch = dataclasses.replace(batch, pixels=mixed.pixels)
        with autocast(self.device, self.dtype):
            output = self.model(batch)
        terms = self.method.losses(output, labels)
        if mixed is None:
            return terms
        return mixed.loss_terms(terms, self.method.losses(output, labels[mixed.partners]))

    def _step(
        self, batch: VideoBatch, *, rate: float, num_videos: int, generator: torch.Generator
    ) -> tuple[dict[str, float], float]:
        assert batch.labels is not None
        # DDP takes the mean over workers; with this share it is the mean over the batch's videos.
        share = len(batch.labels) * self.world / num_videos
        terms = self._losses(batch, generator)
        loss = torch.stack([term.float() for term in terms.values()]).sum() * share
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        limit = self.experiment.optim.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.method.parameters(), limit if limit else math.inf)
        _require_finite(loss, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        means = _summed(torch.stack([t.detach().float() for t in terms.values()]) * share / self.world)
        return dict(zip(terms, means.tolist(), strict=True)), float(norm)

    def _validate(self) -> ClassificationState:
        val = self.videos.sets["val"]
        mine = np.arange(len(val))[self.rank :: self.world]
        scores = score(
            self.method, val.shards, val.labels, device=self.device,
            batch_size=self.experiment.optim.eval_batch_size, dtype=self.dtype, positions=mine,
            batches=self.batches["val"],
        )  # fmt: skip
        finite = _summed(torch.tensor([float(not scores.is_finite)]))
        if finite.item() > 0:
            raise Diverged("validation logits are not finite")
        num_classes = len(self.videos.classes)
        state = scores.state if len(mine) else ClassificationState.empty(num_classes)
        total = _summed(torch.from_numpy(state.packed())).numpy()
        return ClassificationState.unpacked(total, num_classes)

    def _save(self, better: bool) -> None:
        record = self.record()
        if better:
            save_checkpoint(self.folder / "best", self.method, record)
        # A finished run keeps its tensors, not the moments, which are twice as large.
        optimizer = None if self.is_done else self.optimizer
        save_checkpoint(self.folder / "last", self.method, record, optimizer=optimizer)
        lines = [json.dumps(metrics) for metrics in self.progress.history]
        write_text(self.folder / "history.jsonl", "\n".join(lines) + "\n")

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
        if self.rank != 0:
            return contextlib.nullcontext()
        weights = weights_of(self.method.frozen)
        loud = "\n\n**RANDOM WEIGHTS**: these numbers say nothing of a trained CLIP" * (
            "random" in weights.values()
        )
        settings = json.dumps(self.experiment.model_dump(mode="json"), indent=1)
        text = {"config": f"```\n{settings}\n```", "weights": f"{weights}{loud}"}
        return BoardWriter(self.folder, self.hparams, text=text)


def _distributed(method: Method, device: torch.device) -> torch.nn.Module:
    ids = [device.index] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(method, device_ids=ids, broadcast_buffers=False)


def _seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def _summed(values: Tensor) -> Tensor:
    if dist.is_initialized():
        on_device = values.cuda() if dist.get_backend() == "nccl" else values.clone()
        dist.all_reduce(on_device)
        return on_device.cpu()
    return values.cpu()


def _require_finite(loss: Tensor, norm: Tensor) -> None:
    bad = torch.tensor([float(not (torch.isfinite(loss) and torch.isfinite(norm)))])
    if _summed(bad).item() > 0:
        raise Diverged("the loss or its gradient is not finite")


def _board_names(metrics: Metrics) -> dict[str, float]:
    names = {}
    for key, value in metrics.items():
        if key in {"epoch", "val_videos", "leaking_rows"} or value is None or isinstance(value, bool):
            continue
        if key == "zero_shot_top1":
            names["val/zero_shot_top1"] = float(value)
        elif key.startswith("best_val_"):
            names[f"val/best_{key.removeprefix('best_val_')}"] = float(value)
        else:
            group, _, rest = key.partition("_")
            names[f"{group}/{rest}" if group in {"train", "val"} and rest else f"run/{key}"] = float(value)
    return names
