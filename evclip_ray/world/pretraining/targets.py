"""What the video network learns beside the classes: which cells change, and what a CLIP sees in each cell."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evclip_ray.models.backbones import world_model
from evclip_ray.models.world_weights import WorldTokenizer
from evclip_ray.world.pretraining.frames import Normalisation
from evclip_ray.world.pretraining.words import caption_words

_CHANGE = 0.08
"""Difference of a colour, of 1, from which a pixel counts as changed."""
_VISUAL = "visual."


def change_shares(frames: Tensor, cell: int) -> Tensor:
    """Return the share of each cell's pixels that change between the two frames of a pair.

    Args:
        frames: (B, T, 3, S, S) in [0, 1].
        cell: Side of a cell in pixels.

    Returns:
        (B, T / 2, S / cell, S / cell).
    """
    pairs = frames.unflatten(1, (-1, 2))
    changed = (pairs[:, :, 1] - pairs[:, :, 0]).abs().amax(2) > _CHANGE
    return F.avg_pool2d(changed.float(), cell)


class Teacher:
    """Image tower of a world CLIP, whose features a video network repeats.

    Args:
        name: Row of BACKBONES.
        path: Its weights.
        device: Device of the training.
    """

    def __init__(self, name: str, path: Path, device: torch.device) -> None:
        model: Any = world_model(name, WorldTokenizer(caption_words()).vocab_size)
        self._visual: Any = model.visual.to(device, memory_format=torch.channels_last)
        # Only the image tower is read, so that the teacher may know other words.
        state = safetensors.torch.load_file(path)
        self._visual.load_state_dict(
            {key.removeprefix(_VISUAL): value for key, value in state.items() if key.startswith(_VISUAL)}
        )
        self._visual.requires_grad_(False).eval()
        cfg = self._visual.preprocess_cfg
        self._normalised = Normalisation(cfg["mean"], cfg["std"], device)
        self.map_dim = int(self._visual.attnpool.k_proj.in_features)
        self.dim = int(self._visual.attnpool.c_proj.out_features)

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of each pair of frames.

        Args:
            frames: (B, T, 3, S, S) in [0, 1].

        Returns:
            The last map (B, T / 2, h, w, C) and the frame features (B, T / 2, D), without their means.
        """
        visual = self._visual
        images = self._normalised(frames).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(frames.device.type, torch.bfloat16):
            last = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
            features = visual.attnpool(last)
        cells = last.float().unflatten(0, (frames.shape[0], -1, 2)).mean(2).permute(0, 1, 3, 4, 2)
        pooled = F.normalize(features.float(), dim=-1).unflatten(0, (frames.shape[0], -1, 2)).mean(2)
        return _centred(cells), _centred(pooled)


def likeness_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Return 1 minus the mean cosine similarity over the last dimension."""
    return 1 - F.cosine_similarity(found.float(), wanted, dim=-1).mean()


def _centred(features: Tensor) -> Tensor:
    # All features share a large part that says nothing about the picture.
    return features - features.flatten(0, -2).mean(0)


class Heads(nn.ModuleDict):
    """Linear layers on the mean of the last map ("clip"), of each time step ("step"), or each cell.

    Args:
        dim: Channels of the map.
        clip: Sizes of the heads on the mean, by name.
        step: Sizes of the heads on the mean of each time step.
        cell: Sizes of the heads on each cell.
    """

    def __init__(self, dim: int, *, clip: dict[str, int], step: dict[str, int], cell: dict[str, int]) -> None:
        super().__init__({key: nn.Linear(dim, size) for key, size in {**clip, **step, **cell}.items()})
        self._clip, self._step = frozenset(clip), frozenset(step)

    def forward(self, last: Tensor) -> dict[str, Tensor]:
        """Return the output of each head on the last map (B, T / 2, h, w, D_z)."""
        steps = last.mean((2, 3))
        pooled = steps.mean(1)
        return {
            key: head(pooled if key in self._clip else steps if key in self._step else last)
            for key, head in self.items()
        }
