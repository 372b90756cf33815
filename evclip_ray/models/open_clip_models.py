"""Construction of open_clip's models, of the debug sizes and of the small world's towers."""

import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

import open_clip
import torch
from torch import nn

from evclip_ray.models.backbones import BACKBONES, CONTEXT, WORLD_CONTEXT, WORLD_SIZES
from evclip_ray.models.world_weights import WorldTokenizer, world_words

_DEBUG_SIZES = {"debug_small": (32, 1), "debug": (64, 2), "debug_large": (128, 4)}
"""Width and layers of the image tower. All three share the same text tower."""


def _debug_config(width: int, layers: int) -> dict[str, Any]:
    return {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 16,
            "width": width,
            "layers": layers,
            "head_width": 32,
        },
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
        # The value of a trained CLIP. With open_clip's initial value, 14.3, learning rates that work on the
        # debug towers would not carry over to trained ones.
        "init_logit_scale": math.log(100),
    }


def world_model(name: str, vocab_size: int) -> nn.Module:
    """Build a CLIP of the small pretrained world with new weights.

    Args:
        name: A "world-*" row of BACKBONES.
        vocab_size: Number of tokens.
    """
    width, layers, text_width = WORLD_SIZES[name]
    config = {
        "embed_dim": BACKBONES[name].embed_dim,
        # A ResNet trains on a CPU in bfloat16 twice as fast as a ViT of the same accuracy.
        "vision_cfg": {"image_size": BACKBONES[name].image_size, "width": width, "layers": list(layers)},
        "text_cfg": {
            "context_length": WORLD_CONTEXT,
            "vocab_size": vocab_size,
            "width": text_width,
            "heads": text_width // 32,
            "layers": 2,
        },
    }
    return _with_colours(open_clip.CLIP(**config), name)


def build(architecture: str, pretrained: str | None = None, *, device: str = "cpu") -> nn.Module:
    """Build an open_clip model.

    Args:
        architecture: open_clip's name, or one of the debug sizes.
        pretrained: open_clip tag; None gives random weights. The world's weights are loaded by `load_clip`.
        device: Device of the weights; "meta" needs no memory and serves for counting operations.
    """
    with torch.device(device), _without_random_notice():
        if architecture in _DEBUG_SIZES:
            return _with_colours(open_clip.CLIP(**_debug_config(*_DEBUG_SIZES[architecture])), architecture)
        if architecture in WORLD_SIZES:
            return world_model(architecture, WorldTokenizer(world_words()).vocab_size)
        model: nn.Module = open_clip.create_model(
            architecture,
            pretrained=pretrained,
            pretrained_text=False,
            device=device,
            force_preprocess_cfg=_colours(architecture, pretrained),
        )
    return model


@contextlib.contextmanager
def _without_random_notice() -> Iterator[None]:
    # open_clip logs this for every model whose weights we load ourselves, on the root logger. Where weights
    # stay random, `random_weights` logs it.
    def is_relevant(record: logging.LogRecord) -> bool:
        return "Model initialized randomly" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(is_relevant)
    try:
        yield
    finally:
        root.removeFilter(is_relevant)


def _colours(architecture: str, pretrained: str | None) -> dict[str, tuple[float, ...]]:
    # open_clip stores the colours per tag. Without a tag it would normalise a SigLIP with the colours of
    # OpenAI's CLIP.
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained or not tags:
        return {}
    tag = open_clip.get_pretrained_cfg(architecture, tags[0])
    return {key: tag[key] for key in ("mean", "std") if tag.get(key)}


def _with_colours(model: nn.Module, name: str) -> nn.Module:
    preprocess = {
        "size": BACKBONES[name].image_size,
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
    }
    open_clip.model.set_model_preprocess_cfg(model, preprocess)
    return model
