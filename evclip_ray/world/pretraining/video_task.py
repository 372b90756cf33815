"""Supervised pretraining of the world's video network: action, motion and part of the body.

    loss = CE(action) + CE(motion) + CE(part)
         + w_m BCE(share) + w_c BCE(change) + w_p L1(pose) + w_t (1 - cos)

where the classifiers read the mean of the last map. Of the other terms a training has one or two:

    share   share of each cell that the acting figure covers: the only term that sees true masks
    change  share of each cell's pixels that change between the two frames of a pair
    pose    joints relative to the hips, in lengths of a leg, from the mean of each time step (smooth L1)
    cos     cosine similarity of each cell and of each time step to the features of a pretrained CLIP

Change and CLIP guide the first part of the training alone, which sees plain scenes: in clutter, other
things change as well, and the CLIP has seen none. Cross entropy alone stays at chance for 300,000 clips,
because the mean over the map hides who moves. A first layer that begins as differences of the two frames of
a patch in half of its channels helps.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.video_encoder import IMAGENET_MEAN, IMAGENET_STD, VIDEO_ENCODERS
from evclip_ray.models.world_weights import HEADS
from evclip_ray.world.figure import JOINTS
from evclip_ray.world.pretraining.corpus import action_names, open_corpus
from evclip_ray.world.pretraining.frames import Augmentation, FrameStore, Normalisation, scaled, sent
from evclip_ray.world.pretraining.recipe import CELL, Training
from evclip_ray.world.pretraining.scores import MOTION_LABELS, PART_LABELS, ScoreSet, label_scores
from evclip_ray.world.pretraining.targets import Heads, Teacher, change_shares, likeness_loss

_SHIPPED_HEADS = ("action", "motion", "part", "share")
_POSE_BETA = 0.1
"""Distance, in lengths of a leg, from which the loss of a joint is linear."""


class VideoClassifier(nn.Module):
    """Trunk of the world's video encoder with classifiers.

    Args:
        training: Optimisation, which decides on the heads.
        teacher: CLIP whose features are repeated.
    """

    def __init__(self, training: Training, teacher: Teacher | None = None) -> None:
        super().__init__()
        # All rows of the world have the same sizes.
        row = VIDEO_ENCODERS["swin3d_world"]
        self.trunk = row.build()
        _start_with_differences(self.trunk, training.difference_share)
        clip = {
            "action": len(MOTION_LABELS),
            "motion": int(MOTION_LABELS.max()) + 1,
            "part": int(PART_LABELS.max()) + 1,
        }
        step: dict[str, int] = {}
        cell: dict[str, int] = {}
        if training.mask_weight:
            cell["share"] = 1
        if training.change_weight:
            cell["change"] = 1
        if training.pose_weight:
            step["pose"] = 2 * 2 * len(JOINTS)
        if teacher is not None:
            cell["teacher cells"], step["teacher frames"] = teacher.map_dim, teacher.dim
        self.heads = Heads(row.dim, clip=clip, step=step, cell=cell)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the output of each head on prepared images (B, T, 3, S, S)."""
        trunk = self.trunk
        patches = trunk.patch_embed(images.transpose(1, 2))
        # Channels last: (B, T / 2, h, w, D_z).
        outputs: dict[str, Tensor] = self.heads(trunk.norm(trunk.features(patches)))
        return outputs

    def package_state(self) -> dict[str, Tensor]:
        """Return the tensors of the package file: those of the trunk, and the classifiers under "heads."."""
        heads = {
            f"{HEADS}{key}.{name}": value
            for key, head in self.heads.items()
            if key in _SHIPPED_HEADS
            for name, value in head.state_dict().items()
        }
        trunk = {key: value for key, value in self.trunk.state_dict().items() if "position_index" not in key}
        return {**trunk, **heads}


class VideoTask:
    """Loss and scores of the video network.

    Args:
        name: Name of the training.
        training: Optimisation.
        corpus: Folder of the clips.
        device: Device of the training.
        teacher: Weights of the CLIP `training.teacher`.
    """

    def __init__(
        self, name: str, training: Training, corpus: Path, device: torch.device, teacher: Path | None = None
    ) -> None:
        self.name, self.training, self.device = name, training, device
        self._teacher = None
        if training.teacher is not None and teacher is not None:
            self._teacher = Teacher(training.teacher, teacher, device)
        self.model = VideoClassifier(training, self._teacher).to(device)
        arrays = open_corpus(corpus)
        self._frames = FrameStore(arrays.frames, device)
        labels = np.array(arrays.labels[:, 0], np.int64)
        targets = {"action": labels, "motion": MOTION_LABELS[labels], "part": PART_LABELS[labels]}
        self._labels = {key: torch.from_numpy(value).to(device) for key, value in targets.items()}
        self._shares = torch.from_numpy(np.array(arrays.shares)).to(device)
        self._poses = torch.from_numpy(np.array(arrays.poses)).to(device)
        self._normalised = Normalisation(IMAGENET_MEAN, IMAGENET_STD, device)

    @property
    def module(self) -> nn.Module:
        """Trained module."""
        return self.model

    def loss(self, step: int, random: np.random.Generator) -> dict[str, Tensor]:
        """Return the loss of one random batch under "loss", and its terms."""
        training = self.training
        indices = random.integers(len(self._shares), size=training.batch)
        is_plain = step < training.plain_share * training.steps
        if is_plain:
            # Domains take turns in the corpus and the first is plain.
            indices -= indices % 2
        at = sent(indices, self.device)
        augmentation = Augmentation(len(indices), random, self.device)
        frames = augmentation.frames(self._frames[indices])
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = self.model(self._normalised(frames))
        terms = {
            key: F.cross_entropy(outputs[key].float(), labels[at]) for key, labels in self._labels.items()
        }
        total = sum(terms.values(), torch.zeros((), device=self.device))
        for key, weight, term in self._guides(at, frames, outputs, augmentation, is_plain=is_plain):
            terms[key] = term
            total = total + weight * term
        return {"loss": total, **terms}

    def _guides(
        self,
        at: Tensor,
        frames: Tensor,
        outputs: Mapping[str, Tensor],
        augmentation: Augmentation,
        *,
        is_plain: bool,
    ) -> Iterator[tuple[str, float, Tensor]]:
        training = self.training
        if training.mask_weight:
            shares = augmentation.shares(self._shares[at].float() / 255)
            yield "share", training.mask_weight, _cell_loss(outputs["share"], shares)
        if training.pose_weight:
            poses = self._poses[at].float().unflatten(1, (-1, 2)).flatten(2)
            loss = F.smooth_l1_loss(outputs["pose"].float(), poses, beta=_POSE_BETA)
            yield "pose", training.pose_weight, loss
        if training.change_weight and is_plain:
            shares = change_shares(frames, CELL)
            yield "change", training.change_weight, _cell_loss(outputs["change"], shares)
        if self._teacher is not None and is_plain:
            cells, features = self._teacher(frames)
            loss = likeness_loss(outputs["teacher cells"], cells)
            loss = loss + likeness_loss(outputs["teacher frames"], features)
            yield "teacher", training.teacher_weight, loss

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


def _cell_loss(outputs: Tensor, shares: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(-1).float(), shares)


def _start_with_differences(trunk: Any, share: float) -> None:
    weight = trunk.patch_embed.proj.weight
    count = round(share * weight.shape[0])
    with torch.no_grad():
        # A patch spans two frames: opposite weights give w (x_2 - x_1).
        weight[:count, :, 0] = -weight[:count, :, 1]
