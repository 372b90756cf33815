import pytest
import torch
from torch import Tensor

from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.methods.base import Frozen, VideoBatch
from evclip_ray.models.video_encoder import load_video_encoder


@pytest.fixture
def clip() -> FrozenCLIP:
    return load_clip("debug", "random")


@pytest.fixture
def frozen(clip: FrozenCLIP) -> Frozen:
    return Frozen(clip, load_video_encoder("swin3d_debug", "random"))


@pytest.fixture
def pixels() -> Tensor:
    """Three videos of 8 frames that differ in colour and from frame to frame."""
    generator = torch.Generator().manual_seed(1)
    videos = torch.rand(3, 8, 3, 64, 64, generator=generator)
    return videos * torch.linspace(0.2, 1.0, 3).view(3, 1, 1, 1, 1)


@pytest.fixture
def batch(pixels: Tensor) -> VideoBatch:
    return VideoBatch(pixels)
