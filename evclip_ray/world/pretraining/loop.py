"""Training loop of one network: seeded, resumable, with scores on the way.

The random choices of a step depend on the seed and the number of the step alone, so a resumed training makes
the same ones.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from tqdm import tqdm

from evclip_ray.artifacts import replacing
from evclip_ray.world.pretraining.recipe import Training
from evclip_ray.world.pretraining.scores import ScoreSet

_CALIBRATION_STEPS = 30
_LOG_EVERY = 50
NUM_SCORES = 6
"""Number of times that the scores are computed during a training."""
_SETS_ON_THE_WAY = ("held-out plain", "seen plain", "seen clutter")
_VIDEOS_ON_THE_WAY = 240


class Task(Protocol):
    """Network with its loss and its scores."""

    name: str
    training: Training
    device: torch.device

    @property
    def module(self) -> nn.Module:
        """Trained module."""

    def loss(self, step: int, random: np.random.Generator) -> Mapping[str, Tensor]:
        """Return the loss of one random batch under "loss", and its terms."""

    def after_step(self) -> None:
        """Change the parameters after an optimiser step."""

    def package_state(self) -> dict[str, Tensor]:
        """Return the tensors of the package file."""

    def scores(self, sets: Sequence[ScoreSet]) -> dict[str, dict[str, float]]:
        """Return the scores of each set by name."""


class Log:
    """Lines of JSON, appended by the trainings of all networks to one file.

    Args:
        path: File.
        name: Name of the network, part of every line.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def write(self, **values: Any) -> None:
        """Append a line and print it."""
        line = json.dumps({"name": self._name, **values})
        # One write of a short line is atomic when a file is open for appending.
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        tqdm.write(line, file=sys.stderr)


def fit(
    task: Task,
    *,
    sets: Sequence[ScoreSet],
    checkpoint: Path,
    weights: Path,
    log: Log,
    deadline: float = float("inf"),
) -> bool:
    """Train until the recipe's number of steps, from the checkpoint if there is one.

    Args:
        task: Network and loss.
        sets: Sets of the scores.
        checkpoint: File with the state of the training.
        weights: Package file that is written at every scoring, in float16.
        log: Log of losses, speed and scores.
        deadline: Time of `time.monotonic` after which the training stops and leaves its checkpoint.

    Returns:
        Whether all steps were made.
    """
    training, steps = task.training, task.training.steps
    optimizer = _optimizer(task.module, training)
    average = MovingAverage(task.module, training.average)
    step, seconds = _resume(task.module, average, optimizer, checkpoint)
    score_every = max(1, math.ceil(steps / NUM_SCORES))
    started = time.monotonic() - seconds
    calibration: float | None = None
    first, since, logged = step, time.monotonic(), step
    task.module.train()
    bar = tqdm(total=steps, initial=step, desc=task.name, disable=None, unit="step")
    while step < steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step)
        terms = task.loss(step, np.random.default_rng([training.seed, step]))
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(task.module.parameters(), training.clip_norm)
        optimizer.step()
        task.after_step()
        step += 1
        average.update(step)
        bar.update()
        if step - first == 5:
            calibration = time.monotonic()
        if step - first == 5 + _CALIBRATION_STEPS and calibration is not None:
            # Reading the loss waits for the device, so that the time is that of the computation.
            float(terms["loss"].detach())
            pace = (time.monotonic() - calibration) / _CALIBRATION_STEPS
            log.write(step=step, calibrated_ms=round(1000 * pace, 1), minutes=round(pace * steps / 60, 2))
        if step % _LOG_EVERY == 0 or step == steps:
            values = {key: round(float(value.detach()), 4) for key, value in terms.items()}
            rate = (step - logged) * training.batch / (time.monotonic() - since)
            since, logged = time.monotonic(), step
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(f"{task.name}: the loss is {values['loss']} at step {step}")
            if step % (4 * _LOG_EVERY) == 0 or step == steps:
                log.write(step=step, seen=step * training.batch, per_second=round(rate), **values)
        is_late = time.monotonic() > deadline
        if step % score_every == 0 or step == steps or is_late:
            chosen = list(sets) if step == steps else _fewer(sets)
            seconds = time.monotonic() - started
            _save(task.module, average, optimizer, checkpoint, step, seconds)
            with average.in_place():
                log.write(step=step, seen=step * training.batch, scores=_rounded(task.scores(chosen)))
                save_weights(task, weights, step, time.monotonic() - started)
            since, logged = time.monotonic(), step
        if is_late:
            break
    bar.close()
    return step >= steps


def learning_rate(training: Training, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    lr (s + 1) / w for s < w, then lr (1 + cos(pi (s - w) / (S - w))) / 2, where S is the number of steps and
    w = warmup S.
    """
    warmup = max(1, round(training.warmup * training.steps))
    if step < warmup:
        return training.lr * (step + 1) / warmup
    share = (step - warmup) / max(1, training.steps - warmup)
    return training.lr * (1 + math.cos(math.pi * share)) / 2


def _optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    matrices = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    # One kernel for all parameters: on a GPU the steps of networks of this size are bound by launches.
    fused = matrices[0].device.type == "cuda"
    return torch.optim.AdamW(groups, lr=training.lr, betas=(0.9, 0.98), fused=fused)


class MovingAverage:
    """Exponential moving average of a module's parameters and statistics, which is scored and saved.

    average <- d average + (1 - d) value, where d = min(decay, (1 + step) / (10 + step)), so that the initial
    weights are soon forgotten.

    Args:
        module: Trained module.
        decay: Share of the old average that a step keeps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        # Not all buffers: the text tower's attention mask has -inf, and -inf minus -inf is no number. It is
        # not part of the state.
        tensors = module.state_dict().values()
        self._live = [tensor.data for tensor in tensors if tensor.is_floating_point()]
        self.values = [tensor.clone() for tensor in self._live]

    def update(self, step: int) -> None:
        """Take in the values after `step` steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, self._live, 1 - decay)

    def load(self, values: Sequence[Tensor]) -> None:
        """Continue from saved values."""
        torch._foreach_copy_(self.values, list(values))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the module the averages for a while."""
        kept = [tensor.clone() for tensor in self._live]
        torch._foreach_copy_(self._live, self.values)
        try:
            yield
        finally:
            torch._foreach_copy_(self._live, kept)


def _resume(
    module: nn.Module, average: MovingAverage, optimizer: torch.optim.Optimizer, path: Path
) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=next(module.parameters()).device, weights_only=True)
    module.load_state_dict(state["module"])
    average.load(state["average"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["seconds"])


def _save(
    module: nn.Module,
    average: MovingAverage,
    optimizer: torch.optim.Optimizer,
    path: Path,
    step: int,
    seconds: float,
) -> None:
    state = {
        "module": module.state_dict(),
        "average": average.values,
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def save_weights(task: Task, path: Path, step: int, seconds: float) -> None:
    """Write the package file of a network in float16, with its progress in the metadata."""
    state = {
        key: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in task.package_state().items()
    }
    device = torch.cuda.get_device_name() if task.device.type == "cuda" else "cpu"
    metadata = {
        "name": task.name,
        "step": str(step),
        "steps": str(task.training.steps),
        "seconds": str(round(seconds)),
        "device": device,
        "torch": torch.__version__,
    }
    with replacing(path) as temporary:
        safetensors.torch.save_file(state, temporary, metadata)


def _fewer(sets: Sequence[ScoreSet]) -> list[ScoreSet]:
    return [held.first(_VIDEOS_ON_THE_WAY) for held in sets if held.name in _SETS_ON_THE_WAY]


def _rounded(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: round(value, 4) for key, value in values.items()} for name, values in scores.items()}
