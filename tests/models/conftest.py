from collections.abc import Callable

import open_clip
import pytest
import torch
from torch import Tensor, nn

from evclip_ray.models.batch import Frozen, VideoBatch
from evclip_ray.models.clip import FrozenCLIP, load_clip
from evclip_ray.models.open_clip_models import build
from evclip_ray.models.video_encoder import load_video_encoder

# Networks this small are 30 times slower on threads that wait for a busy core than on one.
torch.set_num_threads(1)


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


@pytest.fixture
def meta_clip() -> Callable[[str], FrozenCLIP]:
    """CLIP by open_clip name, in its real sizes and without memory: for counting, not for computing."""

    def make(architecture: str) -> FrozenCLIP:
        model = build(architecture, device="meta")
        model.logit_scale = nn.Parameter(torch.tensor(4.6))
        config = open_clip.get_model_config(architecture)
        tokenizer = open_clip.get_tokenizer("ViT-B-32")
        return FrozenCLIP(
            model, tokenizer, name=architecture, embed_dim=config["embed_dim"], weights="random"
        )

    return make
