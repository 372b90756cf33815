"""Operations that a training step needs: forward and backward pass, counted on tensors without memory.

torch's counter sees matrix products, convolutions and attention. Activations that a backward pass computes
again to save memory are left out: they are no part of the method. Features that a trial reads from disk are
left out as well.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from evclip_ray.artifacts import digest
from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.frozen import META
from evclip_ray.models.layers.gather import without_workers
from evclip_ray.training.build import build_method
from evclip_ray.training.compiled import forward_and_losses
from evclip_ray.training.experiment import ExperimentConfig

_counts: dict[str, float] = {}
"""Counts of this process by the digest of what decides them. Trials of a study often have equal shapes."""


def useful_flop(experiment: ExperimentConfig, classes: Sequence[str], batch: VideoBatch) -> float:
    """Return the floating-point operations of a training step on a batch, 2 per multiply-accumulate.

    The count needs no weights and no memory for tensors. It takes some tenths of a second.

    Args:
        experiment: Settings of the run.
        classes: Names of the classes.
        batch: Labelled batch as the run gets it. Only its shapes matter.
    """
    tensors = {
        field.name: value
        for field in dataclasses.fields(batch)
        if (value := getattr(batch, field.name)) is not None
    }
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    settings = experiment.model_dump(mode="json", include={"view", "backbone", "method"})
    key = digest({"settings": settings, "classes": list(classes), "shapes": shapes})
    if key not in _counts:
        _counts[key] = _counted(experiment, classes, VideoBatch(**{"pixels": None, **_on_meta(tensors)}))
    return _counts[key]


def _on_meta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Cached features may be in bfloat16, and the networks that are counted are in float32.
    return {
        name: torch.empty(
            value.shape, device=META, dtype=torch.float32 if value.is_floating_point() else value.dtype
        )
        for name, value in tensors.items()
    }


def _counted(experiment: ExperimentConfig, classes: Sequence[str], batch: VideoBatch) -> float:
    device = torch.device(META)
    method = build_method(experiment, classes, device=device).train()
    assert batch.labels is not None
    with FlopCounterMode(display=False) as counter, without_workers():
        _, terms = forward_and_losses(method, method, batch, batch.labels, device, None)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        with _Recomputation(counter) as again:
            loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops() - again.flop)


class _Recomputation(TorchDispatchMode):
    """Dispatch mode around a backward pass that counts the operations of recomputed activations."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self._counter = counter
        self.flop = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count an operation. Only a recomputed forward pass records gradients during a backward pass."""
        if not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        before = self._counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        self.flop += self._counter.get_total_flops() - before
        return result
