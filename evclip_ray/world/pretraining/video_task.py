"""Supervised pretraining of the world's video network: action, motion and part of the body.

    loss = CE(action) + CE(motion) + CE(part) + w BCE(share)

where the classifiers read the mean of the last map, and the last term, with w = 0 in the network without
masks, compares each cell with the share of it that the acting figure covers.

Cross entropy over the actions alone stays at chance for 43,000 clips. Two things start it: separate
classifiers of motion and part, and a first layer that begins as differences of the two frames of a patch in
half of its channels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.preprocess import prepare
from evclip_ray.models.video_encoder import IMAGENET_MEAN, IMAGENET_STD, VIDEO_ENCODERS
from evclip_ray.models.world_weights import HEADS
from evclip_ray.world.pretraining.corpus import action_names, open_corpus
from evclip_ray.world.pretraining.frames import Augmentation, FrameStore, scaled
from evclip_ray.world.pretraining.recipe import Training
from evclip_ray.world.pretraining.scores import MOTION_LABELS, PART_LABELS, ScoreSet, label_scores


class VideoClassifier(nn.Module):
    """Trunk of a video encoder with classifiers.

    Args:
        name: Row of VIDEO_ENCODERS.
        has_mask_head: Whether a classifier of cells is added.
    """

    def __init__(self, name: str, *, has_mask_head: bool) -> None:
        super().__init__()
        row = VIDEO_ENCODERS[name]
        self.trunk = row.build()
        _start_with_differences(self.trunk)
        sizes = {
            "action": len(MOTION_LABELS),
            "motion": int(MOTION_LABELS.max()) + 1,
            "part": int(PART_LABELS.max()) + 1,
            **({"share": 1} if has_mask_head else {}),
        }
        self.heads = nn.ModuleDict({key: nn.Linear(row.dim, size) for key, size in sizes.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits of prepared images (B, T, 3, S, S).

        Returns:
            "action", "motion" and "part": (B, N). "share": (B, T / 2, h, w), where the head exists.
        """
        trunk = self.trunk
        patches = trunk.patch_embed(images.transpose(1, 2))
        # Channels last: (B, T / 2, h, w, D_z).
        last = trunk.norm(trunk.features(patches))
        pooled = last.mean((1, 2, 3))
        logits = {key: head(pooled) for key, head in self.heads.items() if key != "share"}
        if "share" in self.heads:
            logits["share"] = self.heads["share"](last).squeeze(-1)
        return logits

    def package_state(self) -> dict[str, Tensor]:
        """Return the tensors under the names of the package file: those of the trunk, and "heads."."""
        return {
            **{key: value for key, value in self.trunk.state_dict().items() if "position_index" not in key},
            **{HEADS + key: value for key, value in self.heads.state_dict().items()},
        }


class VideoTask:
    """Loss and scores of the video network.

    Args:
        name: Row of VIDEO_ENCODERS.
        training: Optimisation.
        corpus: Folder of the clips.
        device: Device of the training.
    """

    def __init__(self, name: str, training: Training, corpus: Path, device: torch.device) -> None:
        self.name, self.training, self.device = name, training, device
        self.model = VideoClassifier(name, has_mask_head=training.mask_weight > 0).to(device)
        arrays = open_corpus(corpus)
        self._frames = FrameStore(arrays.frames, device)
        self._labels = np.array(arrays.labels[:, 0], np.int64)
        self._shares = np.array(arrays.shares)

    @property
    def module(self) -> nn.Module:
        """Trained module."""
        return self.model

    def loss(self, step: int, random: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss of one random batch under "loss", and its terms."""
        count, training = len(self._labels), self.training
        indices = random.integers(count, size=training.batch)
        if step < training.plain_share * training.steps:
            # Domains take turns in the corpus and the first is plain.
            indices -= indices % 2
        augmentation = Augmentation(len(indices), random, self.device)
        images = self._prepared(augmentation.frames(self._frames[indices]))
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.model(images)
        labels = self._labels[indices]
        targets = {"action": labels, "motion": MOTION_LABELS[labels], "part": PART_LABELS[labels]}
        terms = {
            key: F.cross_entropy(logits[key].float(), torch.from_numpy(target).to(self.device))
            for key, target in targets.items()
        }
        total = sum(terms.values(), torch.zeros((), device=self.device))
        if training.mask_weight:
            shares = torch.from_numpy(self._shares[indices]).to(self.device).float() / 255
            terms["share"] = F.binary_cross_entropy_with_logits(
                logits["share"].float(), augmentation.shares(shares)
            )
            total = total + training.mask_weight * terms["share"]
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

    def _prepared(self, frames: Tensor) -> Tensor:
        return prepare(frames, frames.shape[-1], mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def _predict(self, frames: Tensor) -> dict[str, Tensor]:
        images = self._prepared(scaled(frames.to(self.device)))
        with torch.autocast(self.device.type, torch.bfloat16):
            logits: dict[str, Tensor] = self.model(images)
        return logits


def _start_with_differences(trunk: Any) -> None:
    weight = trunk.patch_embed.proj.weight
    half = weight.shape[0] // 2
    with torch.no_grad():
        # A patch spans two frames: opposite weights give w (x_2 - x_1).
        weight[:half, :, 0] = -weight[:half, :, 1]
