"""What a method on a backbone costs, counted: parameters, checkpoint, multiply-accumulates of each part.

Counted on tensors without memory (torch's meta device), so that a ViT-L/14 takes no gigabytes and
seconds; no weights are read. GMAC are 1e9 multiply-accumulates, 2 FLOP each: the "GFLOPs" of papers
are mostly these.
"""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evclip_ray.models.methods.base import Method, VideoBatch
from evclip_ray.profiling.flops import DistinctLabels, PartCounter
from evclip_ray.training.build import build_method
from evclip_ray.training.checkpoint import ADAPTER, save_checkpoint
from evclip_ray.training.experiment import ExperimentConfig

IMAGE_TOWER, TEXT_TOWER, VIDEO_ENCODER = "image_tower", "text_tower", "video_encoder"


@dataclasses.dataclass(frozen=True)
class CountedCost:
    """What an experiment costs, from its shapes alone.

    `inference_gmac`: of one video, by part: the frozen towers, the method's own modules by their
    names (`mask_generator`, ...), and `head` for the rest. `class_text_gmac`: of all class texts,
    encoded once and kept. `training_gmac`: of one video of a step of `training_batch`, by part, with
    `backward` for all gradients; what features on disk would spare is not taken off.
    """

    method: str
    backbone: str
    num_frames: int
    num_classes: int
    trainable_parameters: int
    frozen_parameters: int
    checkpoint_bytes: int
    inference_gmac: dict[str, float]
    class_text_gmac: float
    training_gmac: dict[str, float]
    training_batch: int

    @property
    def total_parameters(self) -> int:
        """Trained and frozen."""
        return self.trainable_parameters + self.frozen_parameters

    def record(self) -> dict[str, Any]:
        """All of it as plain values, with the sums."""
        return {
            **dataclasses.asdict(self),
            "total_parameters": self.total_parameters,
            "inference_gmac_total": sum(self.inference_gmac.values()),
            "training_gmac_total": sum(self.training_gmac.values()),
        }


def count_cost(experiment: ExperimentConfig, classes: Sequence[str]) -> CountedCost:
    """Count an experiment over `classes`.

    Raises:
        ConfigError: a method that does not fit the backbone.
    """
    with PartCounter({}) as building:
        method = build_method(_in_one_go(experiment), classes, device=torch.device("meta"))
    parts = _parts(method)
    first = warm = _inference(method, parts, experiment)
    if TEXT_TOWER in first:
        # The first video pays for class texts that are kept from then on.
        warm = _inference(method, parts, experiment)
    return CountedCost(
        method=experiment.method.name,
        backbone=experiment.backbone.name,
        num_frames=experiment.view.num_frames,
        num_classes=len(classes),
        trainable_parameters=method.num_trainable(),
        frozen_parameters=_num_frozen(method),
        checkpoint_bytes=_checkpoint_bytes(method),
        inference_gmac=_giga(warm),
        class_text_gmac=(building.macs.total() + first.total() - warm.total()) / 1e9,
        training_gmac=_giga(_training(method, parts, experiment, len(classes)), experiment.optim.batch_size),
        training_batch=experiment.optim.batch_size,
    )


def random_batch(
    method: Method, experiment: ExperimentConfig, *, size: int, device: torch.device
) -> VideoBatch:
    """`size` videos of random pixels, labelled, as the networks take them."""
    side = method.frozen.clip.image_size
    pixels = torch.rand(size, experiment.view.num_frames, 3, side, side, device=device)
    return VideoBatch(pixels, labels=torch.arange(size).to(device))


def training_loss(method: Method, batch: VideoBatch) -> torch.Tensor:
    """The sum of a method's losses on a batch."""
    assert batch.labels is not None
    terms = method.losses(method(batch), batch.labels)
    return torch.stack([term.float() for term in terms.values()]).sum()


def _in_one_go(experiment: ExperimentConfig) -> ExperimentConfig:
    # Texts in many small chunks cost the same and take the counter a minute.
    method = experiment.method
    if "texts_at_once" not in type(method).model_fields:
        return experiment
    return experiment.model_copy(update={"method": method.model_copy(update={"texts_at_once": 10**6})})


def _inference(method: Method, parts: Mapping[nn.Module, str], experiment: ExperimentConfig) -> Counter[str]:
    method.eval()
    batch = random_batch(method, experiment, size=1, device=torch.device("meta"))
    with torch.no_grad(), PartCounter(parts) as counter:
        method(VideoBatch(batch.pixels))
    return counter.macs


def _training(
    method: Method, parts: Mapping[nn.Module, str], experiment: ExperimentConfig, num_classes: int
) -> Counter[str]:
    if not method.num_trainable():
        return Counter()
    method.train()
    batch = random_batch(method, experiment, size=experiment.optim.batch_size, device=torch.device("meta"))
    with PartCounter(parts) as counter, DistinctLabels(num_classes):
        loss = training_loss(method, batch)
        counter.backward()
        loss.backward()  # type: ignore[no-untyped-call]
    return counter.macs


def _parts(method: Method) -> dict[nn.Module, str]:
    """Every module that has a part's name. A method's trained copy of CLIP counts as CLIP."""
    clip = method.frozen.clip.model
    found: dict[nn.Module, str] = {}
    for name, child in method.named_children():
        found |= dict.fromkeys(child.modules(), name)
    for model in (clip, *_copies(method)):
        found |= dict.fromkeys(model.modules(), TEXT_TOWER)
        found |= dict.fromkeys(model.visual.modules(), IMAGE_TOWER)
    if method.needs_video_encoder:
        encoder = method.frozen.video_encoder
        assert encoder is not None
        found |= dict.fromkeys(encoder.modules(), VIDEO_ENCODER)
    return found


def _copies(method: Method) -> list[Any]:
    return [module for module in method.modules() if isinstance(getattr(module, "visual", None), nn.Module)]


def _num_frozen(method: Method) -> int:
    """Frozen parameters, less those of which the method trains a copy and reads that."""
    copied = {name for copy in _copies(method) for name, _ in copy.named_parameters()}
    tensors = [p for name, p in method.frozen.clip.model.named_parameters() if name not in copied]
    if method.frozen.video_encoder is not None:
        tensors += method.frozen.video_encoder.parameters()
    return sum(tensor.numel() for tensor in tensors)


def _checkpoint_bytes(method: Method) -> int:
    """Of the file that a run's checkpoint keeps its tensors in, by writing one."""
    method.to_empty(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "checkpoint", method, {})
        size = (Path(folder) / "checkpoint" / ADAPTER).stat().st_size
    method.to("meta")
    return size


def _giga(macs: Counter[str], videos: int = 1) -> dict[str, float]:
    return {part: count / videos / 1e9 for part, count in macs.items() if count}
