"""Supervised pretraining of the world's video network: action, motion and part of the body.

    loss = CE(action) + CE(motion) + CE(part) + w BCE(share)

where the classifiers read the mean of the last map, and `share` is the share of each cell that the acting
figure covers. Only `swin3d_world_masks` has w > 0 and sees true masks.

The first layer begins with some channels as differences of the two frames of a patch. What was tried without
masks, with the accuracy on the 40 seen actions in plain and in clutter scenes (800 videos each, one seed):

    half of the channels as differences                                 0.03  0.02  (300,000 clips)
    all channels as differences: `swin3d_world`                         0.85  0.32  (240,000 clips)
    the same, and the share of each cell that changes in a pair         0.80  0.34  (240,000 clips)
    half of the channels, the share that changes, and the joints        0.83  0.28  (240,000 clips)

Chance is 0.025. With masks and half of the channels it is 0.93 and 0.38. The simplest one that learns is
shipped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.video_encoder import IMAGENET_MEAN, IMAGENET_STD, VIDEO_ENCODERS
from evclip_ray.models.world_weights import HEADS
from evclip_ray.world.pretraining.corpus import action_names, open_corpus
from evclip_ray.world.pretraining.frames import Augmentation, FrameStore, Normalisation, scaled, sent
from evclip_ray.world.pretraining.recipe import CORPORA, Training
from evclip_ray.world.pretraining.scores import MOTION_LABELS, PART_LABELS, ScoreSet, label_scores

_SHARE = "share"


class VideoClassifier(nn.Module):
    """Trunk of the world's video encoder with classifiers.

    Args:
        training: Optimisation, which decides on the heads.
    """

    def __init__(self, training: Training) -> None:
        super().__init__()
        # All rows of the world have the same sizes.
        row = VIDEO_ENCODERS["swin3d_world"]
        self.trunk = row.build()
        _start_with_differences(self.trunk, training.difference_share)
        sizes = {
            "action": len(MOTION_LABELS),
            "motion": int(MOTION_LABELS.max()) + 1,
            "part": int(PART_LABELS.max()) + 1,
        }
        if training.mask_weight:
            sizes[_SHARE] = 1
        self.heads = nn.ModuleDict({key: nn.Linear(row.dim, size) for key, size in sizes.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the output of each head on prepared images (B, T, 3, S, S)."""
        trunk = self.trunk
        patches = trunk.patch_embed(images.transpose(1, 2))
        # Channels last: (B, T / 2, h, w, D_z).
        last = trunk.norm(trunk.features(patches))
        pooled = last.mean((1, 2, 3))
        return {key: head(last if key == _SHARE else pooled) for key, head in self.heads.items()}

    def package_state(self) -> dict[str, Tensor]:
        """Return the tensors of the package file: those of the trunk, and the classifiers under "heads."."""
        heads = {f"{HEADS}{key}": value for key, value in self.heads.state_dict().items()}
        trunk = {key: value for key, value in self.trunk.state_dict().items() if "position_index" not in key}
        return {**trunk, **heads}


class VideoTask:
    """Loss and scores of the video network.

    Args:
        name: Name of the training.
        training: Optimisation.
        corpus: Folder of the clips.
        device: Device of the training.
    """

    def __init__(self, name: str, training: Training, corpus: Path, device: torch.device) -> None:
        self.name, self.training, self.device = name, training, device
        self.model = VideoClassifier(training).to(device)
        self._num_domains = len(CORPORA[training.corpus].domains)
        arrays = open_corpus(corpus)
        self._frames = FrameStore(arrays.frames, device)
        labels = np.array(arrays.labels[:, 0], np.int64)
        targets = {"action": labels, "motion": MOTION_LABELS[labels], "part": PART_LABELS[labels]}
        self._labels = {key: torch.from_numpy(value).to(device) for key, value in targets.items()}
        self._shares = torch.from_numpy(np.array(arrays.shares)).to(device)
        self._normalised = Normalisation(IMAGENET_MEAN, IMAGENET_STD, device)

    @property
    def module(self) -> nn.Module:
        """Trained module."""
        return self.model

    def loss(self, step: int, random: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss of one random batch under "loss", and its terms."""
        training = self.training
        indices = random.integers(len(self._shares), size=training.batch)
        if step < training.plain_share * training.steps:
            # Domains take turns in the corpus and the first is plain.
            indices -= indices % self._num_domains
        at = sent(indices, self.device)
        augmentation = Augmentation(len(indices), random, self.device)
        images = self._normalised(augmentation.frames(self._frames[indices]))
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = self.model(images)
        terms = {
            key: F.cross_entropy(outputs[key].float(), labels[at]) for key, labels in self._labels.items()
        }
        total = sum(terms.values(), torch.zeros((), device=self.device))
        if training.mask_weight:
            shares = augmentation.shares(self._shares[at].float() / 255)
            logits = outputs[_SHARE].squeeze(-1).float()
            terms[_SHARE] = F.binary_cross_entropy_with_logits(logits, shares)
            total = total + training.mask_weight * terms[_SHARE]
        return {"loss": total, **terms}

    def package_state(self) -> dict[str, Tensor]:
        """Return the tensors under the names of the package file."""
        return self.model.package_state()

    def after_step(self) -> None:
        """Do nothing."""

    def scores(self, sets: Sequence[ScoreSet]) -> dict[str, dict[str, float]]:
        """Return the accuracy of the classifiers on each set."""
        self.model.eval()
        with torch.no_grad():
            result = {
                held.name: label_scores(held, self._predict, action_names(held.corpus.held_out))
                for held in sets
            }
        self.model.train()
        return result

    def _predict(self, frames: Tensor) -> dict[str, Tensor]:
        images = self._normalised(scaled(frames.to(self.device)))
        with torch.autocast(self.device.type, torch.bfloat16):
            logits: dict[str, Tensor] = self.model(images)
        return logits


def _start_with_differences(trunk: Any, share: float) -> None:
    weight = trunk.patch_embed.proj.weight
    count = round(share * weight.shape[0])
    with torch.no_grad():
        # A patch spans two frames: opposite weights give w (x_2 - x_1).
        weight[:count, :, 0] = -weight[:count, :, 1]
