"""Counted cost of a method on a backbone: parameters, checkpoint size, multiply-accumulates by part.

The tensors have no memory (torch's meta device) and no weights are read, so that counting a ViT-L/14 takes
seconds and no gigabytes. 1 GMAC is 1e9 multiply-accumulates, or 2e9 FLOP. Papers often print GMAC as
"GFLOPs".
"""

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.methods.base import Method
from evclip_ray.profiling.flops import PartCounter
from evclip_ray.profiling.synthetic_step import random_batch, training_loss
from evclip_ray.training.build import build_method
from evclip_ray.training.checkpoint import ADAPTER, save_checkpoint
from evclip_ray.training.experiment import ExperimentConfig

IMAGE_TOWER, TEXT_TOWER, VIDEO_ENCODER = "image_tower", "text_tower", "video_encoder"


@dataclasses.dataclass(frozen=True)
class CountedCost:
    """Cost of an experiment from its shapes alone.

    Attributes:
        method: Name of the method.
        backbone: Name of the backbone.
        num_frames: Frames of a view.
        num_classes: Classes.
        trainable_parameters: Parameters that are trained.
        frozen_parameters: Parameters of the frozen networks that the method uses.
        checkpoint_bytes: Size of the tensors of a checkpoint.
        inference_gmac: GMAC of one video by part: the frozen towers, the modules of the method by name
            (`mask_generator`, ...) and `head` for the rest.
        class_text_gmac: GMAC of all class texts, which are encoded once.
        training_gmac: GMAC of one video of a training step by part, with `backward` for all gradients.
            Features that a trial reads from disk count as computed.
        training_batch: Videos of the training step.
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
        """Number of trained and frozen parameters."""
        return self.trainable_parameters + self.frozen_parameters

    def record(self) -> dict[str, Any]:
        """Return all values and the sums, as written to `costs/NAME.json`."""
        return {
            **dataclasses.asdict(self),
            "total_parameters": self.total_parameters,
            "inference_gmac_total": sum(self.inference_gmac.values()),
            "training_gmac_total": sum(self.training_gmac.values()),
        }


def count_cost(experiment: ExperimentConfig, classes: Sequence[str]) -> CountedCost:
    """Count the cost of an experiment.

    Args:
        experiment: The experiment. Its data and weights are not read.
        classes: Names of the classes.

    Raises:
        ConfigError: the method does not fit the backbone.
    """
    # Methods that encode their class texts once do so in `build`; this counter sees that work.
    with PartCounter({}) as building:
        method = build_method(_in_one_go(experiment), classes, device=torch.device("meta"))
    parts = _parts(method)
    first = warm = _inference(method, parts, experiment)
    if TEXT_TOWER in first:
        # Class texts are encoded with the first video and reused afterwards.
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


def _in_one_go(experiment: ExperimentConfig) -> ExperimentConfig:
    # Encoding texts in small chunks gives the same count and takes a minute longer.
    method = experiment.method
    if "texts_at_once" not in type(method).model_fields:
        return experiment
    return experiment.model_copy(update={"method": method.model_copy(update={"texts_at_once": 10**6})})


def _inference(method: Method, parts: Mapping[nn.Module, str], experiment: ExperimentConfig) -> Counter[str]:
    method.eval()
    batch = random_batch(method, experiment, size=1, num_classes=1, device=torch.device("meta"))
    with torch.no_grad(), PartCounter(parts) as counter:
        # Without labels: a method that trains its texts then encodes those of all classes.
        method(VideoBatch(batch.pixels))
    return counter.macs


def _training(
    method: Method, parts: Mapping[nn.Module, str], experiment: ExperimentConfig, num_classes: int
) -> Counter[str]:
    if not method.num_trainable():
        return Counter()
    method.train()
    size, device = experiment.optim.batch_size, torch.device("meta")
    batch = random_batch(method, experiment, size=size, num_classes=num_classes, device=device)
    with PartCounter(parts) as counter:
        loss = training_loss(method, batch)
        # All later operations are gradients, including activations that checkpointing computes again.
        counter.backward()
        loss.backward()  # type: ignore[no-untyped-call]
    return counter.macs


def _parts(method: Method) -> dict[nn.Module, str]:
    """Return the part of each module. A trained copy of CLIP counts as CLIP."""
    clip = method.frozen.clip.model
    part_of: dict[nn.Module, str] = {}
    for name, child in method.named_children():
        part_of |= dict.fromkeys(child.modules(), name)
    for model in (clip, *_copies(method)):
        # The whole model first, then the image tower: later entries replace earlier ones, and what is left is
        # text.
        part_of |= dict.fromkeys(model.modules(), TEXT_TOWER)
        part_of |= dict.fromkeys(model.visual.modules(), IMAGE_TOWER)
    encoder = method.frozen.video_encoder
    if encoder is not None:
        part_of |= dict.fromkeys(encoder.modules(), VIDEO_ENCODER)
    return part_of


def _copies(method: Method) -> list[Any]:
    return [module for module in method.modules() if isinstance(getattr(module, "visual", None), nn.Module)]


def _num_frozen(method: Method) -> int:
    """Return the number of frozen parameters, without those that the method replaces by a trained copy."""
    # A fine-tuned copy has the names of CLIP's own parameters, which identifies the replaced ones.
    copied = {name for copy in _copies(method) for name, _ in copy.named_parameters()}
    tensors = [p for name, p in method.frozen.clip.model.named_parameters() if name not in copied]
    if method.frozen.video_encoder is not None:
        tensors += method.frozen.video_encoder.parameters()
    return sum(tensor.numel() for tensor in tensors)


def _checkpoint_bytes(method: Method) -> int:
    """Write a checkpoint and return the size of its tensors."""
    # Meta tensors have no values to write. The values do not matter for the size, so the memory stays
    # undefined.
    method.to_empty(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "checkpoint", method, {})
        size = (Path(folder) / "checkpoint" / ADAPTER).stat().st_size
    method.to("meta")
    return size


def _giga(macs: Counter[str], videos: int = 1) -> dict[str, float]:
    return {part: count / videos / 1e9 for part, count in macs.items() if count}
