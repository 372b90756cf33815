"""Preparation and encoding of frames, and the statistics that normalise them."""

from torch import Tensor

from evclip_ray.models.batch import VideoBatch
from evclip_ray.models.clip import FrozenCLIP
from evclip_ray.models.setting_types import Normalization as Normalization
from evclip_ray.models.video_encoder import IMAGENET_MEAN, IMAGENET_STD


def prepare_frames(clip: FrozenCLIP, pixels: Tensor | None, normalization: Normalization) -> Tensor:
    """Resize and normalise pixels (B, T, 3, H, W) in [0, 1] to (B, T, 3, S, S) for `clip.encode_frames`.

    Raises:
        ValueError: `pixels` is None.
    """
    if pixels is None:
        raise ValueError("this batch must hold pixels: its cached features are not sufficient for the method")
    if normalization == "imagenet":
        return clip.prepare(pixels, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return clip.prepare(pixels)


def read_frames(clip: FrozenCLIP, batch: VideoBatch, normalization: Normalization) -> Tensor:
    """Return frame features (B, T, D), un-normalised; those of the cache if the batch has them."""
    if batch.frame_features is not None:
        return batch.frame_features
    return clip.encode_frames(prepare_frames(clip, batch.pixels, normalization))
