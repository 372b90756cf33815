"""Crops and augmentation of stored frames, as tensor operations on whichever device holds them.

Every random number is drawn on the CPU from the generator that is given, so a seed means the same
crops on any device. One video gets one crop, one flip and one colour change for all its frames.
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from evclip_ray.config import Config


class AugmentConfig(Config):
    """What training does to a view.

    `crop`: "random_resized" takes a square of a share of the largest square's area drawn from `scale`;
    "random" a square of the evaluation's side, anywhere (EV-CLIP's released code: 224 of 256 x 340);
    "centre" the evaluation's. `flip`: probability of a horizontal flip; `flip_except`: words, with commas
    between them, whose labels are never flipped, as a mirror makes another action of "pushing something
    from left to right".
    `brightness`, `contrast`: largest relative change, 0.2 multiplies by a factor drawn from [0.8, 1.2].
    `low_light`: probability of a darkening x -> x^gamma with gamma drawn from [1, `low_light_gamma`].
    `mixup`: alpha of Beta(alpha, alpha), see `data.mixup`; 0 mixes nothing.
    """

    crop: Literal["random_resized", "random", "centre"] = "random_resized"
    scale: tuple[float, float] = (0.5, 1.0)
    flip: float = Field(default=0.5, ge=0, le=1)
    flip_except: str = "left, right"
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    low_light: float = Field(default=0.0, ge=0, le=1)
    low_light_gamma: float = Field(default=3.5, ge=1)
    mixup: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _scale_is_a_range(self) -> Self:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high <= 1, got {self.scale}")
        return self

    def may_flip(self, label: str) -> bool:
        """Whether the mirror image of a video of this label has the same label."""
        return not _names_a_word(label, self.flip_except)


@functools.lru_cache(maxsize=1 << 16)
def _names_a_word(label: str, words: str) -> bool:
    spaced = label.replace("_", " ")
    wanted = [word.strip() for word in words.split(",") if word.strip()]
    return any(re.search(rf"\b{re.escape(word)}\b", spaced, re.IGNORECASE) for word in wanted)


def crop_batch(
    frames: Tensor,
    *,
    size: int,
    augment: AugmentConfig | None = None,
    generator: torch.Generator | None = None,
    labels: Sequence[str] | None = None,
    first: int = 0,
    total: int | None = None,
    crop_fraction: float = 0.875,
    place: float = 0.5,
) -> Tensor:
    """Square views ready for the networks: (B, T, H, W, 3) uint8 -> (B, T, 3, size, size) float32 in [0, 1].

    Without `augment`: a square of side `crop_fraction` * min(H, W), 224 of 256, resized (bilinear,
    antialiased where it gets smaller) when `size` differs; across the shorter side it is in the middle,
    and along the longer one (the width of a square frame) at `place`, from 0, left or top, to 1. With it:
    see `AugmentConfig`; `generator` is a CPU one, and `labels` are those of the B videos, by which some
    are not flipped. Of a batch of `total` videos that several processes share, these are those from
    `first` on, and are drawn as they would be in the whole.

    Raises:
        ValueError: frames of another shape or type, or augmentation without a generator.
    """
    _check(frames)
    if augment is not None and (generator is None or generator.device.type != "cpu"):
        raise ValueError("augmentation draws from a CPU generator: pass generator=torch.Generator()")
    height, width = int(frames.shape[2]), int(frames.shape[3])
    side = max(round(crop_fraction * min(height, width)), 1)
    views = _views_for(frames, size)
    if augment is None or generator is None:
        along = int(place * (max(height, width) - side))
        across = (min(height, width) - side) // 2
        top, left = (across, along) if width >= height else (along, across)
        _fit(views, frames[:, :, top : top + side, left : left + side])
        return views
    draws = _Draws(generator, first, len(frames), len(frames) if total is None else total)
    _augment(views, frames, side, augment, draws, labels)
    return views


def bank_views(
    frames: Tensor,
    *,
    size: int,
    augment: AugmentConfig,
    seeds: Sequence[int],
    labels: Sequence[str] | None = None,
    crop_fraction: float = 0.875,
) -> Tensor:
    """As `crop_batch`, each video augmented by a seed of its own: the same view in whatever batch it is.

    `seeds`: B of them, from `bank_seed`. `labels`: see `crop_batch`.
    """
    _check(frames)
    side = max(round(crop_fraction * min(frames.shape[2:4])), 1)
    views = _views_for(frames, size)
    # A part of one video each; strictly, as what is not written would be what memory happened to hold.
    parts = zip(views.split(1), frames.split(1), seeds, labels or [""] * len(seeds), strict=True)
    for view, video, seed, label in parts:
        draws = _Draws(torch.Generator().manual_seed(seed), 0, 1, 1)
        _augment(view, video, side, augment, draws, [label])
    return views


def bank_seed(path: str, row: int, view: int) -> int:
    """What view `view` of a bank is drawn by, for the video at `path` in `row` of its manifest.

    Not a run's seed: runs of different seeds share the bank, and differ in the order they see it in.
    """
    name = json.dumps(["bank", path, row, view])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _check(frames: Tensor) -> None:
    if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be (B, T, H, W, 3) uint8, got {tuple(frames.shape)} {frames.dtype}")


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Draws for `count` videos from `first` on, of a batch of `total`."""

    generator: torch.Generator
    first: int
    count: int
    total: int

    def uniform(self, *shape: int) -> Tensor:
        """(count, *shape) in [0, 1)."""
        whole = torch.rand(self.total, *shape, generator=self.generator)
        return whole[self.first : self.first + self.count]


def _draw_boxes(draws: _Draws, height: int, width: int, side: int, augment: AugmentConfig) -> Tensor:
    """(B, 3) int64: top, left and side of each video's square crop."""
    sides = torch.full((draws.count,), side)
    if augment.crop == "random_resized":
        low, high = augment.scale
        area = low + (high - low) * draws.uniform()
        sides = (area.sqrt() * min(height, width)).round().long().clamp(min=1)
    room = torch.stack([height - sides, width - sides], dim=1)
    is_centred = augment.crop == "centre"
    corners = room // 2 if is_centred else (draws.uniform(2) * (room + 1)).long().minimum(room)
    return torch.cat([corners, sides[:, None]], dim=1)


def _views_for(frames: Tensor, size: int) -> Tensor:
    """(B, T, 3, size, size) float32, to be written."""
    batch, num_frames = frames.shape[:2]
    return torch.empty((batch, num_frames, 3, size, size), device=frames.device)


def _augment(
    views: Tensor,
    frames: Tensor,
    side: int,
    augment: AugmentConfig,
    draws: _Draws,
    labels: Sequence[str] | None,
) -> None:
    """Write a view of each video: one crop, one flip, one colour for all its frames."""
    boxes = _draw_boxes(draws, int(frames.shape[2]), int(frames.shape[3]), side, augment)
    flips = draws.uniform() < augment.flip
    if labels is not None:
        flips &= torch.tensor([augment.may_flip(label) for label in labels])
    parts = zip(views.split(1), frames.split(1), boxes.tolist(), flips.tolist(), strict=True)
    for view, video, (top, left, across), flip in parts:
        _fit(view, video[:, :, top : top + across, left : left + across], flip=flip)
    _colour(views, augment, draws)


def _fit(views: Tensor, frames: Tensor, *, flip: bool = False) -> None:
    """(B, T, side, side, 3) uint8 -> `views`, (B, T, 3, size, size) float32 in [0, 1]."""
    size, side = views.shape[-1], frames.shape[-2]
    planes = frames.flatten(0, 1).permute(0, 3, 1, 2)
    if side < size:
        # Nothing to smooth, and twice as fast: the colours of a pixel stay side by side in memory.
        planes = functional.interpolate(planes.float(), size=(size, size), mode="bilinear")
    elif side > size:
        floats = planes.to(torch.float32, memory_format=torch.contiguous_format)
        planes = functional.interpolate(floats, size=(size, size), mode="bilinear", antialias=True)
    if flip:
        planes = planes.flip(-1)
    # Conversion and order in one pass, straight to where the batch lies.
    views.flatten(0, 1).copy_(planes).div_(255)
    if side != size:
        views.clamp_(0, 1)


def _colour(views: Tensor, augment: AugmentConfig, draws: _Draws) -> None:
    """Brightness, then contrast about the video's own mean grey, then low light, one factor a video."""
    if augment.brightness:
        views.mul_(_factors(views, augment.brightness, draws)).clamp_(0, 1)
    if augment.contrast:
        grey = views.mean(dim=(1, 2, 3, 4), keepdim=True)
        views.sub_(grey).mul_(_factors(views, augment.contrast, draws)).add_(grey).clamp_(0, 1)
    if augment.low_light:
        chosen = draws.uniform() < augment.low_light
        gamma = 1 + (augment.low_light_gamma - 1) * draws.uniform()
        powers = torch.where(chosen, gamma, 1.0).to(views.device)
        views.pow_(powers.view(-1, 1, 1, 1, 1))


def _factors(views: Tensor, strength: float, draws: _Draws) -> Tensor:
    """(B, 1, 1, 1, 1): 1 + U(-strength, strength), drawn on the CPU."""
    drawn = draws.uniform().to(views.device)
    return (1 + strength * (2 * drawn - 1)).view(-1, 1, 1, 1, 1)
