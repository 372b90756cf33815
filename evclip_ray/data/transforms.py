"""Crops, augmentation and mixup of stored frames, as tensor operations on the device that holds them.

All random numbers are drawn on the CPU from a given generator, so a seed gives the same views on any device.
Each video gets one crop, one flip and one colour change for all its frames.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evclip_ray.data.augmentation import CROP_FRACTION as CROP_FRACTION
from evclip_ray.data.augmentation import AugmentConfig as AugmentConfig
from evclip_ray.data.video.view import MAX_ASPECT, ViewConfig

Frames = Tensor | Sequence[Tensor]
"""uint8 frames of B videos: (B, T, H, W, 3), or B times (T, H, W, 3) where videos differ in size."""

Arrays = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]
"""The same as arrays."""


def to_device(frames: Arrays | Frames, device: torch.device) -> Frames:
    """Return frames on a device, to be cropped there: bytes are a quarter of the size of float32.

    Args:
        frames: Frames of B videos, as one array or tensor or as one for each video.
        device: The device.
    """
    if isinstance(frames, np.ndarray | Tensor):
        return copied(torch.as_tensor(frames), device)
    return [copied(torch.as_tensor(video), device) for video in frames]


def copied(values: Tensor, device: torch.device) -> Tensor:
    """Return values on a device. The copy from the CPU to a GPU does not wait for earlier work of the GPU.

    Args:
        values: Values, on the CPU or on the device.
        device: The device.
    """
    # From pageable memory, CUDA waits until everything before the copy is done.
    if device.type == "cuda" and values.device.type == "cpu" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def crop_batch(
    frames: Frames,
    *,
    size: int,
    augment: AugmentConfig | None = None,
    generator: torch.Generator | None = None,
    labels: Sequence[str] | None = None,
    first: int = 0,
    total: int | None = None,
    position: float = 0.5,
    share: float = CROP_FRACTION,
) -> Tensor:
    """Crop square views for the networks: uint8 frames -> (B, T, 3, size, size) float32 in [0, 1].

    Without `augment`, the crop has side `share` * min(H, W), such as 224 of 256. It is resized to
    `size` (bilinear, antialiased when shrinking). It is centred across the shorter side.

    When several processes share a batch, each passes the slice of the batch that it has. The draws are then
    those of the whole batch, for any number of processes.

    Args:
        frames: (B, T, H, W, 3) uint8, or one (T, H, W, 3) for each of B videos of different sizes.
        size: Side of the views in pixels.
        augment: Augmentation; None for the crop of the evaluation.
        generator: CPU generator of the draws; required with `augment`.
        labels: Labels of the B videos, for `AugmentConfig.flip_except`.
        first: Index of the first of these videos in the shared batch.
        total: Size of the shared batch; B by default.
        position: Position of the crop along the longer side (the width of square frames), from 0, left or
            top, to 1. Ignored with `augment`.
        share: Side of the crop as a share of the shorter side. Ignored with `augment`.

    Raises:
        ValueError: `frames` has another shape or type, or there is no generator for the augmentation.
    """
    _check(frames)
    if augment is not None and (generator is None or generator.device.type != "cpu"):
        raise ValueError("augmentation needs a CPU generator: pass generator=torch.Generator()")
    views = _views_for(frames, size)
    if augment is not None and generator is not None:
        draws = _Draws(generator, first, len(frames), len(frames) if total is None else total)
        _augment(views, frames, augment, draws, labels)
        return views
    # One crop for the whole batch where videos have one size.
    whole = [(views, frames)] if isinstance(frames, Tensor) else None
    for target, videos in whole or zip(views.split(1), _one_by_one(frames), strict=True):
        top, left, side = crop_box(*videos.shape[2:4], position=position, share=share)
        _fit(target, videos[:, :, top : top + side, left : left + side])
    return views


def crop_box(
    height: int, width: int, *, position: float = 0.5, share: float = CROP_FRACTION
) -> tuple[int, int, int]:
    """Return top, left and side in pixels of the square that `crop_batch` crops without augmentation.

    Args:
        height: Height of the frames in pixels.
        width: Width of the frames in pixels.
        position: As in `crop_batch`.
        share: As in `crop_batch`.
    """
    side = max(round(share * min(height, width)), 1)
    along = int(position * (max(height, width) - side))
    across = (min(height, width) - side) // 2
    return (across, along, side) if width >= height else (along, across, side)


def picture_share(view: ViewConfig, height: int, width: int) -> float:
    """Return the share of a video's picture in the centre crop of the evaluation.

    >>> view = ViewConfig()
    >>> round(picture_share(view, 480, 640), 2), round(picture_share(view, 1080, 1920), 2)
    (0.57, 0.43)

    Args:
        view: Stored size of the frames.
        height: Height of the upright picture in pixels.
        width: Width of the upright picture in pixels.
    """
    rows, columns = view.size_of(height, width)
    return view.stored_share(height, width) * crop_box(rows, columns)[2] ** 2 / (rows * columns)


def view_summary(view: ViewConfig) -> str:
    """Return one line: the stored size of the frames and the share of a picture in the centre crop."""
    shares = [100 * picture_share(view, *size) for size in ((480, 640), (1080, 1920))]
    if view.fit == "stretch":
        stored, shown = "stretched pictures", f"{shares[0]:.0f} % of a picture"
    else:
        stored = "middle of each picture" if view.fixed_size else f"whole pictures up to {MAX_ASPECT}:1"
        shown = f"{shares[0]:.0f} % of a 4:3 picture, {shares[1]:.0f} % of 16:9"
    size = "{} x {} pixels".format(*view.fixed_size) if view.fixed_size else f"short side {view.shortest}"
    return f"{size}, {stored}; validation and 1x1 read the centre crop: {shown}"


def cached_views(
    frames: Frames,
    *,
    size: int,
    augment: AugmentConfig,
    seeds: Sequence[int],
    labels: Sequence[str] | None = None,
) -> Tensor:
    """Crop views as `crop_batch` does, with one seed per video, so that a view does not depend on its batch.

    Args:
        frames: As in `crop_batch`.
        size: Side of the views in pixels.
        augment: Augmentation.
        seeds: B seeds from `cached_view_seed`.
        labels: Labels of the B videos, for `AugmentConfig.flip_except`.

    Returns:
        (B, T, 3, size, size) float32 in [0, 1].

    Raises:
        ValueError: `seeds` or `labels` has another length than `frames`.
    """
    _check(frames)
    views = _views_for(frames, size)
    # Strict, because `views` is uninitialised memory: a missing seed would leave garbage in it.
    parts = zip(views.split(1), _one_by_one(frames), seeds, labels or [""] * len(seeds), strict=True)
    for view, video, seed, label in parts:
        draws = _Draws(torch.Generator().manual_seed(seed), 0, 1, 1)
        _augment(view, video, augment, draws, [label])
    return views


def cached_view_seed(path: str, row: int, view: int) -> int:
    """Return the seed of one cached view of a video.

    It does not depend on the run's seed: runs with different seeds share the cached views and differ in the
    order in which they use them.

    Args:
        path: Path of the video in its manifest.
        row: Its row in the manifest, which tells parts of one video apart.
        view: View number, from 0.
    """
    # The word "bank" is part of the digest. Another word would change every cached view on disk.
    name = json.dumps(["bank", path, row, view])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _check(frames: Frames) -> None:
    # A batch is one tensor, or one tensor for each video.
    tensors, ndim = ([frames], 5) if isinstance(frames, Tensor) else (frames, 4)
    for tensor in tensors:
        if tensor.dtype != torch.uint8 or tensor.ndim != ndim or tensor.shape[-1] != 3:
            shape = "(B, T, H, W, 3)" if ndim == 5 else "(T, H, W, 3)"
            raise ValueError(f"frames must be {shape} uint8, got {tuple(tensor.shape)} {tensor.dtype}")


def _one_by_one(frames: Frames) -> Sequence[Tensor]:
    """Return (1, T, H, W, 3) for each video."""
    return [video[None] for video in frames]


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Random draws for `count` videos starting at `first` of a batch of `total`."""

    generator: torch.Generator
    first: int
    count: int
    total: int

    def uniform(self, *shape: int) -> Tensor:
        """Draw (count, *shape) in [0, 1)."""
        # The draws of the whole batch, so that every process advances its generator equally.
        whole = torch.rand(self.total, *shape, generator=self.generator)
        return whole[self.first : self.first + self.count]


def _draw_boxes(draws: _Draws, sizes: Tensor, augment: AugmentConfig) -> Tensor:
    """Draw (B, 3) int64: top, left and side of each video's square crop. `sizes`: (B, 2), H and W."""
    shortest = sizes.amin(dim=1)
    if augment.crop == "random_resized":
        low, high = augment.scale
        area = low + (high - low) * draws.uniform()
        sides = (area.sqrt() * shortest).round().long().clamp(min=1)
    else:
        sides = (CROP_FRACTION * shortest).round().long().clamp(min=1)
    slack = sizes - sides[:, None]
    is_centred = augment.crop == "centre"
    # The minimum: u * (slack + 1) rounds up to slack + 1 for the largest u in float32.
    corners = slack // 2 if is_centred else (draws.uniform(2) * (slack + 1)).long().minimum(slack)
    return torch.cat([corners, sides[:, None]], dim=1)


def _views_for(frames: Frames, size: int) -> Tensor:
    """Return uninitialised (B, T, 3, size, size) float32."""
    # One tensor may hold no video, a list holds at least one.
    like = frames if isinstance(frames, Tensor) else frames[0][None]
    return torch.empty((len(frames), like.shape[1], 3, size, size), device=like.device)


def _augment(
    views: Tensor,
    frames: Frames,
    augment: AugmentConfig,
    draws: _Draws,
    labels: Sequence[str] | None,
) -> None:
    """Write a view of each video, with one crop, one flip and one colour change for all its frames."""
    sizes = torch.tensor([video.shape[1:3] for video in frames], dtype=torch.int64).view(-1, 2)
    boxes = _draw_boxes(draws, sizes, augment)
    # Every video draws, even one that may not flip, so that its label does not shift the draws of later
    # steps.
    flips = draws.uniform() < augment.flip
    if labels is not None:
        flips &= torch.tensor([augment.may_flip(label) for label in labels])
    parts = zip(views.split(1), _one_by_one(frames), boxes.tolist(), flips.tolist(), strict=True)
    for view, video, (top, left, across), flip in parts:
        _fit(view, video[:, :, top : top + across, left : left + across], flip=flip)
    _colour(views, augment, draws)


def _fit(views: Tensor, frames: Tensor, *, flip: bool = False) -> None:
    """Resize (B, T, side, side, 3) uint8 into `views`, (B, T, 3, size, size) float32 in [0, 1]."""
    size, side = views.shape[-1], frames.shape[-2]
    planes = frames.flatten(0, 1).permute(0, 3, 1, 2)
    if side < size:
        # Enlarging needs no antialiasing. The channels-last layout is kept, which is twice as fast here.
        planes = functional.interpolate(planes.float(), size=(size, size), mode="bilinear")
    elif side > size:
        floats = planes.to(torch.float32, memory_format=torch.contiguous_format)
        planes = functional.interpolate(floats, size=(size, size), mode="bilinear", antialias=True)
    if flip:
        planes = planes.flip(-1)
    # One pass converts, reorders and writes into the batch.
    views.flatten(0, 1).copy_(planes).div_(255)
    if side != size:
        # The rounded weights of the interpolation can sum to slightly more than 1.
        views.clamp_(0, 1)


def _colour(views: Tensor, augment: AugmentConfig, draws: _Draws) -> None:
    """Change brightness, contrast about the video's mean grey, and light, with one factor per video."""
    if augment.brightness:
        views.mul_(_factors(views, augment.brightness, draws)).clamp_(0, 1)
    if augment.contrast:
        grey = views.mean(dim=(1, 2, 3, 4), keepdim=True)
        views.sub_(grey).mul_(_factors(views, augment.contrast, draws)).add_(grey).clamp_(0, 1)
    if augment.low_light:
        # Both numbers are drawn for every video. A gamma of 1 leaves the pixels as they are.
        chosen = draws.uniform() < augment.low_light
        gamma = 1 + (augment.low_light_gamma - 1) * draws.uniform()
        powers = copied(torch.where(chosen, gamma, 1.0), views.device)
        views.pow_(powers.view(-1, 1, 1, 1, 1))


def _factors(views: Tensor, strength: float, draws: _Draws) -> Tensor:
    """Draw (B, 1, 1, 1, 1) from 1 + U(-strength, strength) on the CPU."""
    drawn = copied(draws.uniform(), views.device)
    return (1 + strength * (2 * drawn - 1)).view(-1, 1, 1, 1, 1)


class MixedBatch(NamedTuple):
    """A batch after mixup.

    `pixels`: (B, T, 3, H, W), mixed; `partners`: (B,) int64, p; `weight`: w, in [0, 1].
    """

    pixels: Tensor
    partners: Tensor
    weight: float

    def loss_terms(self, own: Mapping[str, Tensor], partners: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weighted mean of each loss term for the videos' own labels and for their partners'."""
        return {name: self.weight * own[name] + (1 - self.weight) * partners[name] for name in own}


def mix(pixels: Tensor, *, alpha: float, generator: torch.Generator) -> MixedBatch:
    """Mix each video of a batch with another one (mixup).

        x' = w x + (1 - w) x[p],   loss = w loss(x', y) + (1 - w) loss(x', y[p])

    where x: pixels of the batch; y: labels; p: random permutation of the batch; w ~ Beta(alpha, alpha), one
    draw per batch (Zhang et al., ICLR 2018, section 2). We use this form of the loss instead of soft labels,
    so that any loss on class indices can be mixed.

    Args:
        pixels: (B, T, 3, H, W).
        alpha: Parameter of the Beta distribution; a larger value mixes more evenly.
        generator: CPU generator of all draws.
    """
    order = torch.randperm(len(pixels), generator=generator)
    # torch's Beta distribution takes no generator, so NumPy draws from a seed that the generator gives.
    seed = int(torch.randint(2**62, (), generator=generator))
    weight = float(np.random.default_rng(seed).beta(alpha, alpha))
    partners = copied(order, pixels.device)
    # lerp(a, b, w) is a + w (b - a): weight w for the video itself and 1 - w for its partner.
    return MixedBatch(torch.lerp(pixels[partners], pixels, weight), partners, weight)
