"""Frames as CLIP's image tower reads them, and the colours they are normalised by."""

from typing import Literal

from torch import Tensor

from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.methods.base import VideoBatch
from evclip_ray.models.video_encoder import IMAGENET_MEAN, IMAGENET_STD

Normalization = Literal["own", "imagenet"]
""""own": the colours that CLIP was trained with; "imagenet": the video network's, as EV-CLIP published."""


def prepare_frames(clip: FrozenCLIP, pixels: Tensor | None, normalization: Normalization) -> Tensor:
    """(B, T, 3, H, W) in [0, 1] -> (B, T, 3, S, S) for `clip.encode_frames`.

    Raises:
        ValueError: no pixels, where no cache stands in for them.
    """
    if pixels is None:
        raise ValueError("this batch must hold pixels: what it caches is not all that the method reads")
    if normalization == "imagenet":
        return clip.prepare(pixels, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return clip.prepare(pixels)


def read_frames(clip: FrozenCLIP, batch: VideoBatch, normalization: Normalization) -> Tensor:
    """(B, T, D) frame features, un-normalised: those of the cache where the batch has them."""
    if batch.frame_features is not None:
        return batch.frame_features
    return clip.encode_frames(prepare_frames(clip, batch.pixels, normalization))
